import Foundation
import TestPeers
import Testing

/// The present operator and a device of the release before (0.1.0, commit 8b34092): it is renewed, upgraded and
/// removed.
@Suite(.timeLimit(.minutes(10))) struct PreviousReleaseTests {
    /// A binary of that release, for the variant in which its agent and its node take part.
    private static let binary = ProcessInfo.processInfo.environment["BOOTSTRAP_PREVIOUS"]
    private static let release = "0.1.0-a61355dc0d18"

    /// Ledger, CA, installation and credential as that release wrote them: `Tests/Peers/previous/` has the records. The
    /// machine was off for two days, so that its certificate has expired and no node runs.
    @Test func recordedStateIsRenewedUpgradedAndRemoved() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        let written = try await ChildProcess.run(
            TestTools.python,
            [
                TestTools.repository + "/Tests/Peers/previous/write_state.py",
                journey.directory.path("home/.bootstrap"), journey.directory.path("device"),
                "agent=\(TestTools.bootstrap)", "allow_port=\(backend.port)", "destination=\(journey.destination)",
                "hbone_port=\(journey.hbonePort)", "host_key=\(try await journey.sshd.hostKeyFingerprint())",
                "known_hosts=\(journey.directory.path("home/.ssh/known_hosts"))",
                "ssh_config=\(journey.directory.path("ssh_config"))", "user_key=\(journey.sshd.userKey)",
            ]
        )
        try #require(written.succeeded, "\(written.standardError)")
        #expect(try current(journey) == Self.release)

        try await renew(journey)
        #expect(try #require(journey.node) < 4_194_305, "the machine was off: its node is started")
        #expect(try current(journey) == Self.release, "a renewal brings no new agent")
        try await exchange(journey, backend)
        try await upgradeAndRemove(journey, backend)
    }

    /// Set BOOTSTRAP_PREVIOUS to a binary of that commit.
    @Test(.enabled(if: binary != nil)) func binaryIsRenewedUpgradedAndRemoved() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        let previous = try #require(Self.binary)
        try await journey.makeAuthority(program: previous)
        let enrolled = try await journey.enroll(allow: backend.port, program: previous)
        try #require(enrolled.succeeded, "\(enrolled.standardOutput)\(enrolled.standardError)")
        let node = try #require(journey.node)

        try await renew(journey)
        #expect(journey.node == node, "the node of the release before goes on")
        try await exchange(journey, backend)
        try await upgradeAndRemove(journey, backend)
    }

    /// Its agent cannot be told just what is allowed: it is enrolled once more on the way, and there is one line all
    /// the same.
    @Test(.enabled(if: binary != nil)) func binaryIsToldWhatItAllows() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        let previous = try #require(Self.binary)
        try await journey.makeAuthority(program: previous)
        let enrolled = try await journey.enroll(allow: 81, program: previous)
        try #require(enrolled.succeeded, "\(enrolled.standardOutput)\(enrolled.standardError)")
        let arguments = ["allow", "device1", "\(backend.port)", "--agent-binary", TestTools.bootstrap]
        let allowed = try await journey.run(arguments)
        #expect(allowed.succeeded && allowed.standardOutput == "device1  allows 81, \(backend.port)\n", "\(allowed)")
        try await exchange(journey, backend)
        let status = try await journey.run(["status", "device1"])
        #expect(status.standardOutput.contains(": allowed \(backend.port)"), "\(status.standardOutput)")
        await journey.stop()
    }

    private func renew(_ journey: Journey) async throws {
        let before = try certificate(journey)
        let renewed = try await journey.run(["renew", "device1"])
        #expect(renewed.succeeded, "\(renewed.standardOutput)\(renewed.standardError)")
        #expect(try certificate(journey) != before)
        let device = try await self.device(journey)
        #expect(try #require(device["notAfter"] as? Double) > Date().timeIntervalSince1970)
        #expect(device["identity"] as? String == "spiffe://journey.example/ns/default/sa/device1")
    }

    private func upgradeAndRemove(_ journey: Journey, _ backend: EchoServer) async throws {
        let (before, old) = (try current(journey), try #require(journey.node))
        // The same program with another hash.
        let release = journey.directory.path("release")
        let copied = try await ChildProcess.run(
            "sh",
            ["-c", "cp '\(TestTools.bootstrap)' '\(release)' && echo >>'\(release)'"]
        )
        #expect(copied.succeeded)
        let upgraded = try await journey.enroll(allow: backend.port, extra: ["--agent-binary", release])
        try #require(upgraded.succeeded, "\(upgraded.standardOutput)\(upgraded.standardError)")
        #expect(upgraded.standardOutput.contains("restarted"), "\(upgraded.standardOutput)")
        let now = try current(journey)
        #expect(now != before)
        #expect(journey.node != old)
        try await eventually("the old node has ended") { kill(old, 0) != 0 }
        let releases = try FileManager.default.contentsOfDirectory(atPath: journey.directory.path("device/bootstrap"))
            .filter { $0.hasPrefix("0.") }
        #expect(Set(releases) == [before, now], "the release before is kept")
        try await exchange(journey, backend)

        let node = try #require(journey.node)
        let removed = try await journey.run(["unenroll", "device1"])
        #expect(removed.succeeded, "\(removed.standardOutput)\(removed.standardError)")
        #expect(!removed.standardError.contains("left"), "\(removed.standardError)")
        #expect(try FileManager.default.contentsOfDirectory(atPath: journey.directory.path("device")) == [])
        try await eventually("no node runs") { kill(node, 0) != 0 }
        let status = try await journey.run(["status", "--output", "json"])
        #expect(!status.standardOutput.contains("device1"), "\(status.standardOutput)")
        await journey.stop()
    }

    /// Through the device's node, with its identity.
    private func exchange(_ journey: Journey, _ backend: EchoServer) async throws {
        let port = FreePort.next()
        let connect = try journey.start(["connect", "device1", "-L", "\(port):localhost:\(backend.port)"])
        _ = try await connect.standardOutput.line(containing: "path h2: ")
        let identities = try await connect.standardOutput.line(containing: "identities: ")
        #expect(identities.contains("peer spiffe://journey.example/ns/default/sa/device1"))
        let sent = Pattern.bytes(100_000, seed: 1)
        let (received, ending) = try await TCPClient.exchange(port: port, sending: sent)
        #expect(ending == .endOfStream)
        #expect(Checksum.of(received) == Checksum.of(sent))
        await connect.stop()
    }

    private func current(_ journey: Journey) throws -> String {
        try FileManager.default.destinationOfSymbolicLink(atPath: journey.directory.path("device/bootstrap/current"))
    }

    private func certificate(_ journey: Journey) throws -> String {
        try journey.directory.read("device/bootstrap/state/identity/cert-chain.pem")
    }

    /// As the ledger has it.
    private func device(_ journey: Journey) async throws -> [String: Any] {
        let status = try await journey.run(["status", "device1", "--output", "json"])
        #expect(status.succeeded, "\(status.standardError)")
        let devices = try JSONSerialization.jsonObject(with: Data(status.standardOutput.utf8)) as? [[String: Any]]
        return try #require(devices?.first?["device"] as? [String: Any])
    }
}
