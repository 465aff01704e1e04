import Streams
import TestPeers
import Testing

@testable import H2Transport

/// A stream that comes without a `traceparent` is sent the one that this side records, where its peer cannot make it.
@Suite struct TraceSendingTests {
    /// What the server was sent with three streams that have none, the last of them certainly after its SETTINGS, and
    /// what the client records for them.
    private func traces(
        _ sending: H2Configuration.TraceSending,
        serverMakesThem: Bool
    ) async throws -> (sent: [TraceParent?], recorded: [TraceParent?]) {
        let echo = try EchoServer()
        var client = H2ClientPool.Configuration.defaults
        client.http2.traces = sending
        var server = HBONEServer.Configuration.defaults
        server.http2.makesTraces = serverMakesThem
        var result: (sent: [TraceParent?], recorded: [TraceParent?]) = ([], [])
        try await withLoop { [client, server] loop in
            let ours = try await OnLoop(loop) { try RelayingServer(on: loop, configuration: server) }
            let port = try await ours { $0.port }
            let user = try await OnLoop(loop) { try PoolUser(on: loop, port: port, configuration: client) }
            for count in 1...3 {
                try await user { $0.open(echo.authority) }
                try await user.until("the tunnel opens") { $0.streams.count == count }
            }
            result.sent = try await ours { $0.requests.map { TraceParent(parsing: $0.traceparent) } }
            result.recorded = try await user { $0.streams.map { ($0.stream as? H2Stream)?.ownTrace } }
            try await user { $0.close() }
            try await ours { $0.close() }
        }
        return result
    }

    @Test(arguments: [(H2Configuration.TraceSending.foreign, false), (.always, false), (.always, true)])
    func thePeerGetsTheOneThatIsRecorded(_ sending: H2Configuration.TraceSending, _ serverMakesThem: Bool) async throws
    {
        let (sent, recorded) = try await traces(sending, serverMakesThem: serverMakesThem)
        #expect(sent.count == 3 && !sent.contains(nil) && sent == recorded)
        #expect(Set(sent.compactMap(\.self)).count == 3)
    }

    @Test func whoMakesItIsSentNone() async throws {
        let (sent, recorded) = try await traces(.foreign, serverMakesThem: true)
        // The first may have left before it was known.
        #expect(sent.count == 3 && sent.dropFirst().allSatisfy { $0 == nil } && !recorded.contains(nil))
    }

    @Test func neverIsNever() async throws {
        let (sent, _) = try await traces(.never, serverMakesThem: false)
        #expect(sent == [nil, nil, nil])
    }
}
