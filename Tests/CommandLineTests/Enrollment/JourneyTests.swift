import Foundation
import TestPeers
import Testing

/// What the README promises, with the real binary and real servers.
@Suite(.timeLimit(.minutes(10))) struct JourneyTests {
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
        _ = try await connect.standardOutput.line(containing: "→ h2: h2 is back and stable")
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
        let enrolled = try await journey.enroll(allow: backend.port, extra: ["--ttl", "20s"])
        #expect(enrolled.succeeded, "\(enrolled.standardError)")
        let status = try await journey.run(["status", "device1", "--output", "json"])
        let devices = try JSONSerialization.jsonObject(with: Data(status.standardOutput.utf8)) as? [[String: Any]]
        let notAfter = try #require((devices?.first?["device"] as? [String: Any])?["notAfter"] as? Double)
        try await eventually("the certificate has expired") {
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

    /// Agent and certificate are there, and nobody has recorded them: what to do about them is said, and works.
    @Test func whatANodeThatCannotStartLeavesBehindIsNamedAndRemoved() async throws {
        let journey = try await Journey()
        let taken = try EchoServer(port: journey.hbonePort)
        try await journey.makeAuthority()
        let enrolled = try await journey.enroll(allow: 1)
        #expect(enrolled.status == .exited(1), "\(enrolled)")
        let base = journey.directory.path("device")
        let command = "bootstrap unenroll \(journey.destination) --base '\(base)'"
        #expect(enrolled.standardError.contains("no record here"), "\(enrolled.standardError)")
        #expect(enrolled.standardError.contains(command), "\(enrolled.standardError)")
        func unenroll() async throws -> ChildProcess.Output {
            try await journey.run(["unenroll", journey.destination, "--base", base] + journey.sshOptions)
        }
        let removed = try await unenroll()
        #expect(removed.succeeded && removed.standardOutput.contains("removed"), "\(removed)")
        let nothing = try await unenroll()
        #expect(nothing.succeeded && nothing.standardOutput.contains("nothing of ours is there"), "\(nothing)")
        withExtendedLifetime(taken) {}
        await journey.stop()
    }

    /// The second time its name means nothing any more.
    @Test func whoIsUnenrolledTwiceIsTold() async throws {
        let journey = try await Journey()
        try await journey.makeAuthority()
        #expect(try await journey.enroll(allow: 1).succeeded)
        #expect(try await journey.run(["unenroll", "device1"] + journey.sshOptions).succeeded)
        let again = try await journey.run(["unenroll", "device1"] + journey.sshOptions)
        #expect(again.status == .exited(6), "\(again)")
        #expect(again.standardError.contains("'device1' is not enrolled (any more)"), "\(again.standardError)")
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
