import Foundation
import TestPeers
import Testing

/// `connect` makes a lost path again, whoever waits for it.
@Suite(.timeLimit(.minutes(10))) struct ConnectReconnectTests {
    /// The way to the server is gone for a while, and nobody asks for a stream meanwhile.
    @Test func aNetworkThatIsGoneForAWhile() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        var way: RelayServer? = try RelayServer(to: journey.sshd.port)
        let (port, near) = (try #require(way?.port), FreePort.next())
        let connect = try journey.start(
            [
                "connect", "\(OpenSSHServer.user)@127.0.0.1:\(port)", "-L", "\(near):localhost:\(backend.port)",
                "-o", "StrictHostKeyChecking=accept-new",
            ] + journey.sshOptions
        )
        _ = try await connect.standardOutput.line(containing: "path ssh")
        way?.close()
        way = nil
        _ = try await connect.standardError.line(containing: "trying again")
        way = try RelayServer(to: journey.sshd.port, port: port)
        _ = try await connect.standardOutput.line(containing: "unreachable for")
        // One line for each.
        #expect(connect.standardError.text.components(separatedBy: "trying again").count == 2)
        let conversation = try await TCPConversation(port: near)
        #expect(try await conversation.echo([1, 2, 3]) == [1, 2, 3])
        connect.signal(SIGTERM)
        #expect(try await connect.exit() == .exited(0))
        way?.close()
        await journey.stop()
    }

    /// The node of a device has gone, and is there again.
    @Test func aNodeThatRestarts() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        try await journey.makeAuthority()
        #expect(try await journey.enroll(allow: backend.port).succeeded)
        let near = FreePort.next()
        let shared = ["-S", journey.directory.path("cm")]
        let connect = try journey.start(
            ["connect", "device1", "-L", "\(near):localhost:\(backend.port)"] + shared
        )
        _ = try await connect.standardOutput.line(containing: "path h2:")
        let watch = try journey.start(["status", "device1", "--watch"] + shared)
        _ = try await watch.standardOutput.line(containing: "listening 127.0.0.1:\(near)")
        _ = try await watch.standardOutput.line { $0.contains(" device1: 0 streams; device1 h2 in use, ") }
        let talk = try await TCPConversation(port: near)
        let objects = try journey.start(["status", "device1", "--watch", "--json"] + shared)
        _ = try await objects.standardOutput.line { $0.contains("\"streams\":1") && $0.contains("\"path\":\"h2\"") }
        #expect(try await talk.echo([UInt8](repeating: 7, count: 100_000)).count == 100_000)
        // What has gone over the path since the object before.
        _ = try await objects.standardOutput.line { $0.contains(/"sentPerSecond":[1-9][0-9]{3}/) }
        objects.signal(SIGINT)
        #expect(try await objects.exit() == .exited(0))
        _ = try await talk.end()
        let node = try #require(journey.node)
        kill(node, SIGKILL)
        // Without anybody's asking: by SSH, and back once the node is there again.
        _ = try await connect.standardOutput.line(containing: "path h2 → ssh")
        _ = try await watch.standardOutput.line(containing: " device1: 0 streams; device1 ssh in use, ")
        #expect(try await journey.enroll(allow: backend.port).succeeded)
        _ = try await connect.standardOutput.line(containing: "path ssh → h2")
        let conversation = try await TCPConversation(port: near)
        #expect(try await conversation.echo([1, 2, 3]) == [1, 2, 3])
        await connect.stop()
        #expect(try await watch.exit() == .exited(1))
        _ = try await watch.standardError.line(containing: "has ended")
        await journey.stop()
    }
}
