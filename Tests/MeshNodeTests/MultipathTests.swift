import Foundation
import Streams
import TestPeers
import Testing

@testable import MeshNode

/// `connections: {multipath: true}`, at both nodes and at one of them.
@Suite(.timeLimit(.minutes(10))) struct MultipathTests {
    private static let isThere = MultipathTCP.unavailability == nil

    @Test(arguments: [(true, true), (true, false), (false, true)])
    func streamsAreTheSameAndTheNodeSaysWhichItIs(server: Bool, client: Bool) async throws {
        let backend = try EchoServer()
        let port = FreePort.next()
        let on = "connections: {multipath: true}"
        let pair = try await NodePair(
            to: backend.port,
            serverSettings: server ? on : "",
            clientSettings: "admin: \"127.0.0.1:\(port)\"\n\(client ? on : "")"
        )
        let sent = Pattern.bytes(2_000_000, seed: 3)
        let (received, ending) = try await TCPClient.exchange(port: pair.entry, sending: sent)
        #expect(ending == .endOfStream)
        #expect(Checksum.of(received) == Checksum.of(sent))

        let isUsed = server && client && Self.isThere
        let peers = try #require(try await OperationClient.get("/paths", port).object["peers"] as? [[String: Any]])
        let path = try #require((peers.first?["paths"] as? [[String: Any]])?.first)
        #expect(path["multipath"] as? Bool == (client ? isUsed : nil), "\(path)")
        let said = isUsed ? "multipath TCP" : "no multipath TCP: plain TCP is used"
        #expect(pair.clientLog.lines.contains { $0.contains(said) } == client, "\(pair.clientLog.lines)")
        // What the kernel lacks is told once, when the node starts.
        let warnings = pair.serverLog.lines.count { $0.contains("this kernel has no Multipath TCP") }
        #expect(warnings == (server && !Self.isThere ? 1 : 0))
        await pair.stop()
    }
}
