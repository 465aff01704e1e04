import Fleet
import Foundation
import MeshIdentity
import TestDevices
import TestPeers
import Testing

@testable import SSHSignal

/// Devices whose clocks are wrong: real sshd, agent, node and openssl, for all of which libfaketime moves the clock.
@Suite(.serialized) struct ClockSkewTests {
    /// An sshd whose sessions are so many seconds off.
    private func server(_ seconds: Int, home: TemporaryDirectory) async throws -> OpenSSHServer {
        let library = try #require(
            ["x86_64", "aarch64"].map { "/usr/lib/\($0)-linux-gnu/faketime/libfaketime.so.1" }
                .first { FileManager.default.fileExists(atPath: $0) },
            "libfaketime is not installed: scripts/install-dependencies.sh test"
        )
        // One line: sshd takes the first SetEnv only. What waits is measured by the monotonic clock, which stays as it
        // is.
        return try await OpenSSHServer(configuration: [
            "SetEnv HOME=\(home.path) LD_PRELOAD=\(library) FAKETIME=\(seconds < 0 ? "" : "+")\(seconds)s "
                + "FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_NO_CACHE=1"
        ])
    }

    private func now() -> Int64 { Int64(Date().timeIntervalSince1970) }

    @Test(arguments: [-3600, 3600])
    func anHourIsCovered(seconds: Int) async throws {
        let owner = try await Operator()
        let server = try await server(seconds, home: owner.home)
        defer { owner.stopNode() }
        try owner.know(server)
        let enrolled = try await owner.enroll(server, ["--name", "dev7"])
        #expect(enrolled.succeeded, "\(enrolled.standardOutput)\(enrolled.standardError)")
        let word = seconds < 0 ? "behind: its certificate is dated back by 1 h " : "ahead: it takes certificates"
        #expect(enrolled.standardError.contains("warning: dev7: device clock is"), "\(enrolled.standardError)")
        #expect(enrolled.standardError.contains(word), "\(enrolled.standardError)")
        // As the device's node reads it, and as peers do: valid by either clock.
        let credential = try CredentialDirectory(owner.state + "/identity").load()
        let there = now() + Int64(seconds)
        #expect(credential.notBefore < there && there < credential.notAfter)
        let earliest = now() - (seconds < 0 ? 3600 + 120 : 120) - 120
        #expect(credential.notBefore > earliest, "dated back further than it takes: \(now() - credential.notBefore) s")
        _ = try #require(try owner.devices.record(named: "dev7"))
        // Its node takes the operator's certificate, which is younger than its time.
        let probed = try await owner.run(["status", "--probe"])
        #expect(probed.standardOutput.contains("  h2  "), "\(probed.standardOutput)")
        #expect(probed.status == .exited(1) && probed.standardOutput.contains("attention: dev7: device clock is "))

        let renewed = try await owner.run(["renew", "dev7"])
        #expect(renewed.succeeded, "\(renewed.standardOutput)\(renewed.standardError)")
        #expect(renewed.standardError.contains(word), "\(renewed.standardError)")
        let second = try CredentialDirectory(owner.state + "/identity").load()
        #expect(second.leaf.serialNumber != credential.leaf.serialNumber)
        #expect(second.notBefore < now() + Int64(seconds))
    }

    /// Too far to be covered: nothing is uploaded, no key made, until somebody says that it is to be.
    @Test func tenHoursAreRefusedUnlessAccepted() async throws {
        let owner = try await Operator()
        let server = try await server(-36_000, home: owner.home)
        defer { owner.stopNode() }
        try owner.know(server)
        let refused = try await owner.enroll(server, ["--name", "dev7"])
        #expect(refused.status == .exited(1))
        for part in [
            "device clock is", "behind, more than a quarter of the 1 d 0 h", "set the device's clock", "--skew-ok",
        ] {
            #expect(refused.standardError.contains(part), "\(refused.standardError)")
        }
        #expect(try FileManager.default.contentsOfDirectory(atPath: owner.base.path) == [])
        #expect(try owner.devices.ledger.certificates().isEmpty)

        let accepted = try await owner.enroll(server, ["--name", "dev7", "--skew-ok"])
        #expect(accepted.succeeded, "\(accepted.standardOutput)\(accepted.standardError)")
        #expect(try CredentialDirectory(owner.state + "/identity").load().notBefore < now() - 36_000)
        // So far nobody's certificate is dated back but its own: its node refuses the operator, who is told, and does
        // not wait for ever.
        let probed = try await owner.run(["status", "--probe"])
        #expect(probed.status == .exited(1), "\(probed.standardOutput)")
        #expect(probed.standardOutput.contains("its node does not answer over the mesh"), "\(probed.standardOutput)")
        let renewed = try await owner.run(["renew", "dev7"])
        #expect(renewed.status == .exited(1) && renewed.standardError.contains("--skew-ok"), "\(renewed.standardError)")
        let again = try await owner.run(["renew", "dev7", "--skew-ok"])
        #expect(again.succeeded, "\(again.standardError)")
    }

    /// The machine's own openssl agrees, by its own clock.
    @Test func withoutAnAgent() async throws {
        let owner = try await Operator()
        let server = try await server(-7200, home: owner.home)
        try owner.know(server)
        let directory = owner.base.path("mesh")
        let verify = "openssl verify -CAfile '\(directory)/root-cert.pem' '\(directory)/cert-chain.pem'"
        let enrolled = try await owner.run([
            "enroll", "\(OpenSSHServer.user)@127.0.0.1:\(server.port)", "-i", server.userKey, "-o",
            "IdentitiesOnly=yes",
            "--name", "router", "--agentless", "--credential-dir", directory, "--after", verify,
        ])
        #expect(enrolled.succeeded, "\(enrolled.standardOutput)\(enrolled.standardError)")
        #expect(enrolled.standardOutput.contains("cert-chain.pem: OK"), "\(enrolled.standardOutput)")
        #expect(
            enrolled.standardError.contains("behind: its certificate is dated back by 2 h "),
            "\(enrolled.standardError)"
        )
        let first = try CredentialDirectory(directory).load()
        let renewed = try await owner.run(["renew", "router"])
        #expect(renewed.succeeded, "\(renewed.standardError)")
        let second = try CredentialDirectory(directory).load()
        #expect(second.leaf.serialNumber != first.leaf.serialNumber && second.notBefore < now() - 7200)

        let refused = try await owner.run(["renew", "router", "--ttl", "4h"])
        #expect(refused.status == .exited(1), "\(refused.standardOutput)")
        #expect(refused.standardError.contains("more than a quarter of the 4 h 0 min"), "\(refused.standardError)")
        let accepted = try await owner.run(["renew", "router", "--ttl", "4h", "--skew-ok"])
        #expect(accepted.succeeded, "\(accepted.standardError)")
    }

    /// A program that signs learns how far back; one that does not obey gives what the device would not take.
    @Test func aProgramThatSigns() async throws {
        let owner = try await Operator()
        let server = try await server(-3600, home: owner.home)
        defer { owner.stopNode() }
        try owner.know(server)
        let program = owner.home.path("sign")
        try await owner.home.writeProgram(
            "sign",
            """
            echo "$BOOTSTRAP_BACKDATE_SECONDS" >'\(owner.home.path("backdate"))'
            export HOME='\(owner.home.path)' BOOTSTRAP_HOME='\(owner.bootstrapHome)'
            exec '\(TestTools.bootstrap)' ca sign --id "$BOOTSTRAP_SPIFFE_ID"
            """
        )
        let refused = try await owner.enroll(
            server,
            ["--name", "dev7", "--issuer", "exec:\(program)", "--trust-domain", "test.example"]
        )
        #expect(refused.status == .exited(1))
        #expect(refused.standardError.contains("certificate would not be valid yet there"), "\(refused.standardError)")
        let told = try #require(Int64(owner.home.read("backdate").trimmingCharacters(in: .whitespacesAndNewlines)))
        #expect((3660...3780).contains(told))
        #expect(!FileManager.default.fileExists(atPath: owner.state + "/identity/key.pem"))
    }
}
