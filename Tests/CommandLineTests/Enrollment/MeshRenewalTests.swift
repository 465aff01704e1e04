import Fleet
import Foundation
import MeshIdentity
import TestPeers
import Testing

@testable import SSHSignal

/// Renewal over the mesh, and a root that is replaced, with the real command, sshd and nodes.
extension EnrollmentOverSSHTests {
    private func environment(_ owner: Operator) -> [String: String?] {
        ["HOME": owner.home.path, "BOOTSTRAP_HOME": owner.bootstrapHome, "SSH_AUTH_SOCK": nil]
    }

    /// The device asks the issuer by itself; the operator's SSH is gone meanwhile.
    @Test func aDeviceRenewsItselfOverTheMesh() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        try owner.know(server)
        let port = FreePort.next()
        let enrolled = try await owner.enroll(
            server,
            ["--name", "dev7", "--ttl", "40s", "--renew-from", "127.0.0.1:\(port)"]
        )
        #expect(enrolled.succeeded, "\(enrolled.standardError)")
        await server.stop()
        let before = try #require(try owner.devices.record(named: "dev7"))

        // Nobody is there at first: it is tried again.
        let log = owner.state + "/node.log"
        try await eventually("a first attempt has failed") {
            try String(contentsOfFile: log, encoding: .utf8).contains("certificate not renewed")
        }
        let issuer = try ChildProcess(
            TestTools.bootstrap,
            ["ca", "serve", "--listen", "127.0.0.1:\(port)", "--ttl", "1h"],
            environment: environment(owner)
        )
        _ = try await issuer.standardOutput.line(containing: "ready issuer 127.0.0.1:\(port)")
        try await eventually("the device is renewed") {
            try owner.devices.record(named: "dev7")?.serial != before.serial
        }
        let after = try #require(try owner.devices.record(named: "dev7"))
        #expect(after.renewedAt != nil && after.hbone == before.hbone)
        let credential = try CredentialDirectory(owner.state + "/identity").load()
        #expect(credential.leaf.serialNumber == after.serial && credential.id == before.identity)
        #expect(try owner.devices.ledger.certificates(of: "dev7").map(\.command) == ["ca serve", "enroll"])

        issuer.signal(SIGTERM)
        #expect(try await issuer.exit() == .exited(0))
    }

    /// The issuer signs for the identity that the caller's certificate proves, if the ledger has it: nobody else gets
    /// anything.
    @Test func theIssuerRefusesStrangersAndTheRevoked() async throws {
        let owner = try await Operator()
        let server = try await OpenSSHServer()
        defer { owner.stopNode() }
        try await owner.enrolled(on: server)
        let issuer = try ChildProcess(
            TestTools.bootstrap,
            ["ca", "serve", "--listen", "127.0.0.1:0"],
            environment: environment(owner)
        )
        let ready = try await issuer.standardOutput.line(containing: "ready issuer")
        let address = try #require(ready.split(separator: " ").last.map(String.init))
        // A good certificate of the mesh that no device has.
        let out = owner.home.path("stranger")
        #expect(
            try await owner.run(["ca", "issue", "--id", "ns/prod/sa/stranger", "--ttl", "16s", "--out", out]).succeeded
        )
        let file = try owner.home.write(
            "stranger.yaml",
            """
            identity: \(out)
            listeners:
            - {name: hbone, bind: "127.0.0.1:0", protocol: hbone}
            renewal: {from: "\(address)"}
            """
        )
        let stranger = try ChildProcess(TestTools.bootstrap, ["node", "--config", file])
        _ = try await issuer.standardError.line(containing: "it is not in the ledger")
        _ = try await stranger.standardError.line(containing: "certificate not renewed")
        let known = try owner.devices.ledger.certificates().map(\.command).sorted()
        #expect(known == ["ca issue", "enroll"], "nothing was signed")
        await stranger.stop()
        await issuer.stop()
    }

    /// A new root, with two devices that talk to each other all the time: neither ever refuses the other.
    @Test func aRootIsReplacedWhileNodesGoOn() async throws {
        let devices = try await TwoDevices()
        let (owner, a, b) = (devices.owner, devices.a, devices.b)

        /// A new process each time: a new connection, with the credentials of now, in both directions.
        func bothReachEachOther(_ when: String) async throws {
            for (own, peer) in [(a, b), (b, a)] {
                let node = try await devices.forward(from: own, to: peer)
                let (received, _) = try await TCPClient.exchange(port: node.port, sending: Array("hello".utf8))
                #expect(
                    received == Array("hello".utf8),
                    "\(when): \(own.name) to \(peer.name)\n\(node.process.standardError.text)"
                )
                await node.process.stop()
            }
        }
        /// A device's node looks for a new credential every two seconds, and at once when it is told.
        func shown(_ device: Device, _ count: Int) async throws {
            let renewed = try #require(try owner.devices.record(named: device.name))
            #expect(renewed.roots?.count == count)
        }
        func rotate(_ mention: String, _ options: [String] = []) async throws {
            let output = try await owner.run(["ca", "rotate"] + options)
            #expect(output.succeeded, "\(output.standardError)")
            #expect(output.standardOutput.contains(mention), "\(output.standardOutput)")
        }
        func renew(_ which: [String]) async throws {
            let output = try await owner.run(["renew"] + which)
            #expect(output.succeeded, "\(output.standardError)")
        }

        let old = try EmbeddedCA.load(directory: owner.bootstrapHome + "/ca").certificate
        try await rotate("No root is being replaced", ["--status"])
        try await rotate("Made a new root")
        try await bothReachEachOther("a new root was made")
        try await renew(["a"])
        try await bothReachEachOther("one has both roots")
        let early = try await owner.run(["ca", "rotate"])
        #expect(early.status == .exited(1))
        #expect(early.standardOutput.contains("lacks the new root: b"), "\(early.standardOutput)")
        #expect(try EmbeddedCA.load(directory: owner.bootstrapHome + "/ca").certificate == old)
        try await renew(["--all"])
        try await shown(a, 2)
        try await shown(b, 2)

        try await rotate("Everybody has the new root", ["--status"])
        try await rotate("The new key signs from now on")
        let new = try EmbeddedCA.load(directory: owner.bootstrapHome + "/ca").certificate
        #expect(new != old)
        try await bothReachEachOther("the signer was switched")
        try await renew(["b"])
        #expect(
            try CredentialDirectory("\(b.agent.state)/identity").load().leaf.authorityKeyIdentifier
                == new.subjectKeyIdentifier
        )
        try await bothReachEachOther("one has a certificate of the new key")
        let waits = try await owner.run(["ca", "rotate"])
        #expect(waits.status == .exited(1) && waits.standardError.contains("are valid until"), "\(waits.standardError)")
        try await renew(["--all"])
        try await rotate("The old root is given out no more", ["--force"])
        try await bothReachEachOther("the old root was dropped")
        try await renew(["--all"])
        try await shown(a, 1)
        try await bothReachEachOther("only the new root is known")
        #expect(try CredentialDirectory("\(a.agent.state)/identity").load().bundle.roots == [new])
        #expect(!FileManager.default.fileExists(atPath: owner.bootstrapHome + "/ca/previous"))
    }
}
