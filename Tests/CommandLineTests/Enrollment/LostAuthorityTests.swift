import Fleet
import Foundation
import MeshIdentity
import Platform
import TestPeers
import Testing

/// What docs/identity.md says of a CA's key, a ledger and a home that were lost, with its commands.
@Suite(.serialized, .timeLimit(.minutes(10))) struct LostAuthorityTests {
    private func lists(_ path: String) throws -> [RevocationList] { try RevocationList.all(pem: AtomicFile.read(path)) }

    private func listed(at device: Device) throws -> Set<String> {
        try revokedSerials(at: "\(device.agent.state)/identity/ca-crl.pem")
    }

    /// Whether a node with the identity of one device reaches the other's service.
    private func reaches(_ devices: TwoDevices, from own: Device, to peer: Device) async throws -> Bool {
        let node = try await devices.forward(from: own, to: peer)
        let (received, _) = try await TCPClient.exchange(port: node.port, sending: Array("hello".utf8))
        await node.process.stop()
        return received == Array("hello".utf8)
    }

    private func shell(_ owner: Operator, _ line: String) async throws {
        let output = try await ChildProcess.run(
            "sh",
            ["-ec", line],
            environment: ["HOME": owner.home.path, "BOOTSTRAP_HOME": owner.bootstrapHome]
        )
        try #require(output.succeeded, "\(output.standardError)")
    }

    private func enroll(
        _ devices: TwoDevices,
        _ name: String,
        _ more: [String] = []
    ) async throws -> ChildProcess.Output {
        let base = name == "a" ? devices.bases.a : devices.bases.b
        return try await devices.owner.enroll(
            port: devices.server.port,
            key: devices.server.userKey,
            ["--name", name, "--base", base.path, "--allow-port", "\(devices.backend.port)"] + more
        )
    }

    /// Something that is revoked, so that there is another list, and everybody is told.
    private func revokeAnother(_ owner: Operator) async throws -> ChildProcess.Output {
        let out = owner.home.path("other-\(UUID().uuidString)")
        let made = try await owner.run(["ca", "issue", "--id", "ns/prod/sa/other", "--out", out])
        #expect(made.succeeded, "\(made.standardError)")
        return try await owner.run(["revoke", "--serial", CredentialDirectory(out).load().leaf.serialNumber])
    }

    @Test func theLedgerWasLost() async throws {
        let devices = try await TwoDevices()
        let (owner, a, b) = (devices.owner, devices.a, devices.b)
        #expect(try await owner.run(["revoke", "a"]).succeeded)
        let serial = try #require(a.serial)
        #expect(try listed(at: b) == [serial])
        #expect(try await !reaches(devices, from: a, to: b))

        try await shell(owner, "rm $BOOTSTRAP_HOME/ledger.sqlite")
        let again = try await enroll(devices, "b")
        #expect(again.succeeded, "\(again.standardOutput)\(again.standardError)")
        #expect(try listed(at: b) == [serial])
        let revoked = try await revokeAnother(owner)
        #expect(revoked.succeeded && revoked.standardOutput.contains("b  told"), "\(revoked.standardError)")
        #expect(try listed(at: b).count == 2 && listed(at: b).contains(serial))
        #expect(try await !reaches(devices, from: a, to: b), "who was revoked stays so")
    }

    @Test func anEarlierLedgerWasPutBack() async throws {
        let devices = try await TwoDevices()
        let (owner, a, b) = (devices.owner, devices.a, devices.b)
        try await shell(owner, "cp $BOOTSTRAP_HOME/ledger.sqlite $HOME/copy.sqlite")
        let serial = try #require(a.serial)
        // Devices have had several lists since.
        for _ in 0..<2 { #expect(try await revokeAnother(owner).succeeded) }
        #expect(try await owner.run(["revoke", "a"]).succeeded)
        #expect(try listed(at: b).contains(serial))

        try await shell(owner, "cp $HOME/copy.sqlite $BOOTSTRAP_HOME/ledger.sqlite")
        let refused = try await owner.run(["renew", "a"])
        #expect(refused.status == .exited(5), "\(refused.standardOutput)\(refused.standardError)")
        let renewed = try await owner.run(["renew", "b"])
        #expect(renewed.succeeded, "\(renewed.standardError)")
        let revoked = try await revokeAnother(owner)
        #expect(revoked.succeeded && revoked.standardOutput.contains("b  told"), "\(revoked.standardError)")
        #expect(try listed(at: b).count == 4)
        #expect(try await !reaches(devices, from: a, to: b))
        #expect(try await owner.run(["status"]).standardOutput.contains("a     REVOKED"))
    }

    @Test func theCAsKeyWasLost() async throws {
        let devices = try await TwoDevices()
        let (owner, a, b) = (devices.owner, devices.a, devices.b)
        #expect(try await revokeAnother(owner).succeeded)
        let before = try listed(at: b)
        #expect(before.count == 1)
        try await shell(owner, "rm $BOOTSTRAP_HOME/ca/ca-key.pem")
        let stuck = try await owner.run(["renew", "b"])
        #expect(!stuck.succeeded && stuck.standardError.contains("ca-key.pem"), "\(stuck.standardError)")
        #expect(try await reaches(devices, from: a, to: b), "what is valid stays so")

        try await shell(owner, "mv $BOOTSTRAP_HOME/ca $BOOTSTRAP_HOME/ca.lost")
        let made = try await owner.run(["ca", "init", "--trust-domain", "test.example"])
        #expect(made.succeeded, "\(made.standardError)")
        try await shell(owner, "cat $BOOTSTRAP_HOME/ca.lost/root-cert.pem >>$BOOTSTRAP_HOME/ca/root-cert.pem")
        try await shell(owner, "cp $BOOTSTRAP_HOME/ca.lost/ca-crl.pem $BOOTSTRAP_HOME/ca/")
        let renewed = try await owner.run(["renew", "--all"])
        #expect(renewed.succeeded, "\(renewed.standardOutput)\(renewed.standardError)")
        #expect(try await reaches(devices, from: a, to: b))
        #expect(try await reaches(devices, from: b, to: a))
        #expect(try listed(at: b) == before, "what the old CA has revoked stays so")
        #expect(try await owner.run(["status", "--probe"]).succeeded)
        // Revoking goes on, with a list of the new CA. What the old one has signed can be put on none.
        let revoked = try await owner.run(["revoke", "a"])
        #expect(revoked.status == .exited(1) && revoked.standardOutput.contains("b  told"), "\(revoked.standardOutput)")
        #expect(revoked.standardError.contains("serial \(a.serial ?? "") of \(a.identity), accepted until "))
        #expect(try listed(at: b).isSuperset(of: before) && listed(at: b).count == 2)
        #expect(try await !reaches(devices, from: a, to: b))

        // Once every certificate of the old CA has ended.
        try await shell(owner, "cp $BOOTSTRAP_HOME/ca/ca-cert.pem $BOOTSTRAP_HOME/ca/root-cert.pem")
        #expect(try await owner.run(["renew", "b"]).succeeded)
        #expect(try CredentialDirectory("\(b.agent.state)/identity").load().bundle.roots.count == 1)
        #expect(try await !reaches(devices, from: a, to: b))
    }

    @Test func theHomeWasLost() async throws {
        let devices = try await TwoDevices()
        let (owner, a, b) = (devices.owner, devices.a, devices.b)
        try await shell(owner, "cp -rp $BOOTSTRAP_HOME/ca $HOME/copy")
        #expect(try await owner.run(["revoke", "a"]).succeeded)
        let serial = try #require(a.serial)

        // A copy of the CA is there, from before.
        try await shell(
            owner,
            "rm -r $BOOTSTRAP_HOME; mkdir -m 700 $BOOTSTRAP_HOME; cp -rp $HOME/copy $BOOTSTRAP_HOME/ca"
        )
        let again = try await enroll(devices, "b")
        #expect(again.succeeded, "\(again.standardOutput)\(again.standardError)")
        #expect(
            again.standardError.contains("b has a revocation list with 1 certificate that"),
            "\(again.standardError)"
        )
        #expect(try lists(owner.bootstrapHome + "/ca/ca-crl.pem").first?.serials == [serial])
        #expect(try listed(at: b) == [serial])
        let revoked = try await revokeAnother(owner)
        #expect(revoked.succeeded && revoked.standardOutput.contains("b  told"), "\(revoked.standardError)")
        #expect(try listed(at: b).contains(serial))
        #expect(try await !reaches(devices, from: a, to: b))

        // Nothing is there.
        try await shell(owner, "rm -r $BOOTSTRAP_HOME")
        #expect(try await owner.run(["ca", "init", "--trust-domain", "test.example"]).succeeded)
        for name in ["a", "b"] {
            let enrolled = try await enroll(devices, name, ["--accept-known-machine"])
            #expect(enrolled.succeeded, "\(enrolled.standardOutput)\(enrolled.standardError)")
        }
        #expect(try await reaches(devices, from: a, to: b))
    }
}
