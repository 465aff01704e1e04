import Agent
import Fleet
import Foundation
import MeshIdentity
import Platform
import TestPeers
import Testing

@testable import SSHSignal

/// Devices with certificates of Istio's CA, by the real command, sshd and agent; the CA is a stand-in
/// (``IstiodServer``).
extension EnrollmentOverSSHTests {
    private func flags(_ istiod: IstiodServer, roots: String = "server-root.pem") -> [String] {
        [
            "--issuer", "istiod:127.0.0.1:\(istiod.port)", "--issuer-token", istiod.directory.path("token"),
            "--issuer-ca", istiod.directory.path(roots), "--issuer-name", IstiodServer.name,
        ]
    }

    @Test func istiodSigns() async throws {
        let server = try await OpenSSHServer()
        let istiod = try await IstiodServer()
        let owner = try await Operator()
        defer { owner.stopNode() }
        try owner.know(server)
        let name = ["--name", "dev7"]
        let enrolled = try await owner.enroll(server, name + flags(istiod))
        #expect(enrolled.succeeded, "\(enrolled.standardOutput)\(enrolled.standardError)")
        let first = try CredentialDirectory(owner.state + "/identity").load()
        #expect(first.id.description == "spiffe://test.example/ns/default/sa/dev7")
        let root = try Certificate(pem: Array(istiod.directory.read("root.pem").utf8))
        #expect(first.bundle.roots == [root])
        #expect(try istiod.calls().map(\.seconds) == [86_400])
        let record = try #require(try owner.devices.record(named: "dev7"))
        #expect(record.serial == first.leaf.serialNumber)
        #expect(NodeProcess.accepts(try #require(record.hbone.first).description))

        let renewed = try await owner.run(["renew", "dev7"] + flags(istiod))
        #expect(renewed.succeeded, "\(renewed.standardError)")
        let second = try CredentialDirectory(owner.state + "/identity").load()
        #expect(second.leaf.serialNumber != first.leaf.serialNumber)

        // Failures leave what is there: token, server, identity.
        func refused(_ text: String, _ flags: [String]) async throws {
            let output = try await owner.run(["renew", "dev7"] + flags)
            #expect(output.status == .exited(1) && output.standardError.contains(text), "\(output.standardError)")
            #expect(!output.standardError.contains("-token-"), "\(output.standardError)")
            let now = try CredentialDirectory(owner.state + "/identity").load()
            #expect(now.leaf.serialNumber == second.leaf.serialNumber)
        }
        try await refused("not signed by a root that is trusted", flags(istiod, roots: "other-root.pem"))
        try istiod.directory.write("token", "a-token-nobody-knows\n", permissions: 0o600)
        try await refused("UNAUTHENTICATED", flags(istiod))
        try istiod.directory.write("token", "a-token-for-all\n", permissions: 0o644)
        try await refused("chmod 600", flags(istiod))
        try istiod.directory.write("token", "good-token\n", permissions: 0o600)
        let other = try await owner.enroll(
            server,
            ["--name", "dev8", "--accept-known-machine"] + flags(istiod)
        )
        #expect(other.status == .exited(1))
        #expect(
            other.standardError.contains("is for spiffe://test.example/ns/default/sa/dev7, not for"),
            "\(other.standardError)"
        )
        #expect(try owner.devices.record(named: "dev8") == nil)
        #expect(
            try CredentialDirectory(owner.state + "/identity").load().leaf.serialNumber == second.leaf.serialNumber
        )
        await istiod.stop()
        try await refused("Istio's CA listens on port 15012", flags(istiod))
    }

    @Test(arguments: [
        (["--issuer", "istiod:"], "is istiod:HOST:PORT"), (["--issuer", "istiod:ca"], "is istiod:HOST:PORT"),
        (["--issuer", "istiod:ca:15012"], "needs --issuer-token FILE"),
        (["--issuer", "istiod:ca:15012", "--issuer-token", "t"], "and --issuer-ca FILE"),
        (["--issuer-ca", "c"], "are for --issuer istiod:HOST:PORT"),
        (["--issuer", "exec:sign", "--issuer-name", "n"], "are for --issuer istiod:HOST:PORT"),
        (["--issuer", "vault:x"], "or istiod:HOST:PORT"),
    ])
    func issuerFlagsThatMakeNoSense(flags: [String], text: String) async throws {
        let owner = try await Operator()
        for command in [["enroll", "nobody"], ["renew", "nobody"]] {
            let output = try await owner.run(command + flags)
            #expect(output.status == .exited(2) && output.standardError.contains(text), "\(output.standardError)")
        }
    }
}
