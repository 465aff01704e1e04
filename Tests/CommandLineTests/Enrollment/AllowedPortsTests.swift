import Fleet
import Foundation
import MeshIdentity
import SSHSignal
import TestDevices
import TestPeers
import Testing

/// What others may reach on a device, from its enrolment on.
@Suite(.serialized, .timeLimit(.minutes(5))) struct AllowedPortsTests {
    @Test func whatIsAllowedStaysUntilItIsDenied() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        try owner.know(server.directory.path("host_ed25519.pub"), port: server.port)
        let destination = "\(OpenSSHServer.user)@127.0.0.1:\(server.port)"
        let first = try await owner.enroll(
            port: server.port,
            key: server.userKey,
            ["--name", "dev7", "--allow-port", "80"]
        )
        #expect(first.succeeded, "\(first.standardError)")
        func allowed() throws -> [String]? { try owner.devices.record(named: "dev7")?.allowed }
        #expect(try allowed() == ["80"])
        let file = owner.state + "/node.yaml"
        let before = try String(contentsOfFile: file, encoding: .utf8)

        // By its name: as whom, where to log in and where it is installed is known, and nothing is dropped.
        let again = try await owner.run([
            "enroll", "dev7", "--agent-binary", TestTools.bootstrap,
        ])
        #expect(again.succeeded, "\(again.standardOutput)\(again.standardError)")
        #expect(try owner.devices.all().map(\.destination) == [destination])
        #expect(try String(contentsOfFile: file, encoding: .utf8) == before, "address and port, too")
        #expect(again.standardOutput.contains("unchanged: configuration"), "\(again.standardOutput)")

        let status = try await owner.run(["status", "dev7"])
        #expect(status.standardOutput.contains("allows        80"), "\(status.standardOutput)")
        // Denied, with the remedy.
        let denied = try await owner.run(["connect", "dev7", "--path", "h2", "-W", "127.0.0.1:\(server.port)"])
        #expect(denied.status == .exited(5), "\(denied.standardError)")
        let remedy =
            "dev7 does not allow port \(server.port) (allowed: 80). Add it: bootstrap allow dev7 \(server.port)"
        #expect(denied.standardError.contains(remedy), "\(denied.standardError)")

        // Another address of this machine stands for another host behind it.
        let service = try await OpenSSHServer(address: "127.0.0.2")
        let other = "127.0.0.2:\(service.port)"
        let allow = try await owner.run(["allow", "dev7", "\(server.port)", other])
        #expect(allow.succeeded, "\(allow.standardOutput)\(allow.standardError)")
        #expect(try allowed() == ["80", "\(server.port)", other])
        for place in ["127.0.0.1:\(server.port)", other] {
            let reached = try await owner.run(["connect", "dev7", "--path", "h2", "-W", place])
            #expect(reached.standardOutput.hasPrefix("SSH-2.0-"), "\(place) \(reached.standardError)")
        }
        let deny = try await owner.run(["deny", "dev7", "80", other])
        #expect(deny.succeeded, "\(deny.standardError)")
        #expect(try allowed() == ["\(server.port)"])
    }

    /// The issuer that was installed is offered to every device, and a certificate that nobody renews is said.
    @Test func aDeviceThatReachesTheIssuerRenewsThere() async throws {
        let server = try await OpenSSHServer()
        // Whoever accepts there.
        let issuer = server
        let owner = try await Operator()
        defer { owner.stopNode() }
        try owner.know(server.directory.path("host_ed25519.pub"), port: server.port)
        try owner.home.write("bootstrap/issuer.address", "*:\(issuer.port)\n")
        let enrolled = try await owner.enroll(port: server.port, key: server.userKey, ["--name", "dev7"])
        #expect(enrolled.succeeded, "\(enrolled.standardError)")
        #expect(try owner.devices.record(named: "dev7")?.renewFrom == "127.0.0.1:\(issuer.port)")
        let yaml = try String(contentsOfFile: owner.state + "/node.yaml", encoding: .utf8)
        #expect(yaml.contains("renewal: {from: \"127.0.0.1:\(issuer.port)\"}"), "\(yaml)")
        let none = ["--name", "dev7", "--renew-from", "none"]
        #expect(try await owner.enroll(port: server.port, key: server.userKey, none).succeeded)
        #expect(try owner.devices.record(named: "dev7")?.renewFrom == nil)

        let fresh = try await owner.run(["connect", "dev7", "--path", "h2", "-W", "127.0.0.1:1"])
        #expect(!fresh.standardError.contains("certificate of dev7"), "\(fresh.standardError)")
        try owner.devices.update("dev7", by: "test", "ends") {
            $0.notAfter = Int64(Date().timeIntervalSince1970) + 3600
        }
        let ending = try await owner.run(["connect", "dev7", "--path", "h2", "-W", "127.0.0.1:1"])
        #expect(
            ending.standardError.contains("warning: the certificate of dev7 ends in")
                && ending.standardError.contains("bootstrap renew dev7"),
            "\(ending.standardError)"
        )
    }

    @Test func theServiceIsCheckedBeforeAnythingIsUploaded() async throws {
        let server = try await OpenSSHServer()
        let owner = try await Operator()
        try owner.know(server.directory.path("host_ed25519.pub"), port: server.port)
        let output = try await owner.enroll(port: server.port, key: server.userKey, ["--service", "procd"])
        #expect(output.status == .exited(1), "\(output.standardError)")
        #expect(output.standardError.contains("--service procd: procd does not run there"), "\(output.standardError)")
        #expect(!FileManager.default.fileExists(atPath: owner.base.path("bootstrap")))
        #expect(try owner.devices.ledger.certificates() == [])
    }

    @Test func anIdentityThatNobodyHasIsNotIssued() async throws {
        let owner = try await Operator()
        for id in ["web", "spiffe://test.example/web", "ns/web", "ns/a/sa"] {
            let refused = try await owner.run(["ca", "issue", "--id", id, "--out", owner.home.path("out")])
            #expect(refused.status == .exited(2), "\(refused.standardError)")
            #expect(refused.standardError.contains("ns/prod/sa/db"), "\(refused.standardError)")
        }
        #expect(!FileManager.default.fileExists(atPath: owner.home.path("out")))
        #expect(try owner.devices.ledger.certificates() == [])
    }
}
