import Streams
import TestPeers
import Testing

@testable import H2Transport

/// What each side acknowledges at once of what runs inside of streams is known to the other one from its SETTINGS.
@Suite struct PromptPeerTests {
    /// What the client knows of the server.
    private func told(_ bytes: Int) async throws -> [Int?] {
        let echo = try EchoServer()
        var server = HBONEServer.Configuration.defaults
        server.http2.acknowledges = bytes
        var result: [Int?] = []
        try await withLoop { [server] loop in
            let ours = try await OnLoop(loop) { try RelayingServer(on: loop, configuration: server) }
            let port = try await ours { $0.port }
            let user = try await OnLoop(loop) { try PoolUser(on: loop, port: port) }
            try await user { $0.open(echo.authority) }
            try await user.until("the tunnel opens") { $0.streams.count == 1 }
            result = try await user { $0.streams.map { ($0.stream as? H2Stream)?.transport?.peerAcknowledges } }
            try await user { $0.close() }
            try await ours { $0.close() }
        }
        return result
    }

    @Test func itIsToldAsItIs() async throws { #expect(try await told(300_000) == [300_000]) }

    @Test func nothingIsToldByDefault() async throws { #expect(try await told(0) == [0]) }
}
