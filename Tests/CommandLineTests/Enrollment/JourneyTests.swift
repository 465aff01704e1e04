import Foundation
import TestPeers
import Testing

/// What the README promises, with the real binary and real servers.
@Suite(.timeLimit(.minutes(5))) struct JourneyTests {
    @Test func anSSHLoginBecomesAMeshTunnelThatFallsBackAndReturns() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        try await journey.makeAuthority()
        let enrolled = try await journey.enroll(allow: backend.port)
        #expect(enrolled.succeeded, "\(enrolled.standardOutput)\(enrolled.standardError)")
        #expect(enrolled.standardOutput.contains("spiffe://journey.example/ns/default/sa/device1"))

        let port = FreePort.next()
        let connect = try journey.start(["connect", "device1", "-L", "\(port):localhost:\(backend.port)"])
        _ = try await connect.standardOutput.line(containing: "path h2: ")
        let identities = try await connect.standardOutput.line(containing: "identities: ")
        #expect(identities.contains("local spiffe://journey.example/ns/default/sa/operator"))
        #expect(identities.contains("peer spiffe://journey.example/ns/default/sa/device1"))
        try await exchange(port, seed: 1)

        let node = try #require(journey.node)
        try await suspend(node)
        try await exchange(port, seed: 2)
        _ = try await connect.standardOutput.line(containing: "path h2 → ")
        kill(node, SIGCONT)
        _ = try await connect.standardOutput.line(containing: "→ h2: h2 is back and stable", within: .seconds(60))
        try await exchange(port, seed: 3)

        connect.signal(SIGTERM)
        #expect(try await connect.exit() == .exited(0))
        await journey.stop()
    }

    @Test func enrollingAgainRenewsAndRestartsNothing() async throws {
        let journey = try await Journey()
        try await journey.makeAuthority()
        #expect(try await journey.enroll(allow: 1).succeeded)
        let node = journey.node
        let again = try await journey.enroll(allow: 1)
        #expect(again.succeeded, "\(again.standardError)")
        #expect(node != nil && journey.node == node)
        await journey.stop()
    }

    /// Another release of the agent takes the sockets over: the stream that is open goes on, the next one is the new
    /// node's.
    @Test func anUpgradeCutsNoStream() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        try await journey.makeAuthority()
        #expect(try await journey.enroll(allow: backend.port).succeeded)
        let old = try #require(journey.node)
        let port = FreePort.next()
        let connect = try journey.start(["connect", "device1", "-L", "\(port):localhost:\(backend.port)"])
        _ = try await connect.standardOutput.line(containing: "path h2: ")
        let conversation = try await TCPConversation(port: port)
        let first = Pattern.bytes(300_000, seed: 1)
        #expect(Checksum.of(try await conversation.echo(first)) == Checksum.of(first))

        // The same program with another hash.
        let release = journey.directory.path("release")
        let copied = try await ChildProcess.run(
            "sh",
            ["-c", "cp '\(TestTools.bootstrap)' '\(release)' && echo >>'\(release)'"]
        )
        #expect(copied.succeeded)
        let upgraded = try await journey.enroll(allow: backend.port, extra: ["--agent-binary", release])
        #expect(upgraded.succeeded, "\(upgraded.standardOutput)\(upgraded.standardError)")
        #expect(upgraded.standardOutput.contains("restarted"))
        #expect(journey.node != old)
        #expect(kill(old, 0) == 0, "it ends with its last stream")
        let second = Pattern.bytes(300_000, seed: 2)
        #expect(Checksum.of(try await conversation.echo(second)) == Checksum.of(second))
        let (_, ending) = try await conversation.end()
        #expect(ending == .endOfStream)
        try await exchange(port, seed: 3)
        try await eventually("the old node has ended") { kill(old, 0) != 0 }
        #expect(!connect.standardOutput.text.contains("path h2 →"), "\(connect.standardOutput.text)")
        await connect.stop()
        await journey.stop()
    }

    @Test func anExpiredCertificateIsRefusedAndSSHIsTheWayBackIn() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        try await journey.makeAuthority()
        let enrolled = try await journey.enroll(allow: backend.port, extra: ["--ttl", "3s"])
        #expect(enrolled.succeeded, "\(enrolled.standardError)")
        let status = try await journey.run(["status", "device1", "--output", "json"])
        let devices = try JSONSerialization.jsonObject(with: Data(status.standardOutput.utf8)) as? [[String: Any]]
        let notAfter = try #require((devices?.first?["device"] as? [String: Any])?["notAfter"] as? Double)
        try await eventually("the certificate has expired", within: .seconds(20)) {
            Date().timeIntervalSince1970 > notAfter
        }
        let refused = try await journey.run(
            ["connect", "device1", "-L", "0:localhost:\(backend.port)"]
        )
        #expect(refused.status == .exited(4), "\(refused.standardOutput)\(refused.standardError)")
        #expect(refused.standardError.contains("expired"))

        let repaired = try await journey.enroll(allow: backend.port)
        #expect(repaired.succeeded, "\(repaired.standardError)")
        // The node is told, and reads its new certificate a moment later.
        try await eventually("the node shows its new certificate") {
            let diagnosis = try? await journey.run(["doctor", "device1", "--agent-binary", TestTools.bootstrap])
            return diagnosis?.standardOutput.contains("ok       path h2") == true
        }
        let port = FreePort.next()
        let connect = try journey.start(["connect", "device1", "-L", "\(port):localhost:\(backend.port)"])
        _ = try await connect.standardOutput.line(containing: "path h2: ")
        try await exchange(port, seed: 4)
        await connect.stop()
        await journey.stop()
    }

    @Test func aMachineThatIsNotEnrolledIsReachedByPlainSSH() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        let port = FreePort.next()
        let connect = try journey.start(
            ["connect", journey.destination, "-L", "\(port):localhost:\(backend.port)"] + journey.sshOptions
        )
        _ = try await connect.standardOutput.line(containing: "path ssh: ")
        try await exchange(port, seed: 5)
        await connect.stop()
        await journey.stop()
    }

    private func exchange(_ port: UInt16, seed: UInt64) async throws {
        let sent = Pattern.bytes(1_000_000, seed: seed)
        let (received, ending) = try await TCPClient.exchange(port: port, sending: sent)
        #expect(ending == .endOfStream)
        #expect(Checksum.of(received) == Checksum.of(sent))
    }
}
