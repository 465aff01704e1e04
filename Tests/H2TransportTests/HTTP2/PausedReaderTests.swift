import H2Transport
import MeshIdentity
import Streams
import TestPeers
import Testing

/// Readers that take nothing for longer than ``H2Configuration/Limits/stallTimeout``.
@Suite(.timeLimit(.minutes(10))) struct PausedReaderTests {
    private static let bytes = 20_000_000

    /// A stream of a peer that has proved who it is, whose reader stops at once.
    private func pause(memory: Int, _ body: (OnLoop<PoolUser>) async throws -> Void) async throws {
        let source = try SourceServer(count: Self.bytes)
        var server = HBONEServer.Configuration.defaults
        server.http2.limits.stallTimeout = .milliseconds(200)
        var pool = H2ClientPool.Configuration.defaults
        pool.http2.limits.stallTimeout = .milliseconds(200)
        pool.http2.memory = H2MemoryBudget(limit: memory)
        try await withLoop { loop in
            let ours = try await OnLoop(loop) { [server] in try RelayingServer(on: loop, configuration: server) }
            let port = try await ours { $0.port }
            let user = try await OnLoop(loop) { [pool] in try PoolUser(on: loop, port: port, configuration: pool) }
            try await user { $0.open(source.authority, readLimit: 1) }
            try await user.until("the first byte is read") { $0.streams.first?.receivedCount == 1 }
            try await body(user)
            try await user { $0.close() }
            try await ours { $0.close() }
        }
        source.close()
    }

    @Test("a reader may pause for as long as it likes, while there is memory")
    func patience() async throws {
        try await pause(memory: 1 << 30) { user in
            // Five times as long as whoever is unknown may.
            try await Task.sleep(for: .seconds(1))
            try await user {
                $0.streams[0].readLimit = .max
                $0.streams[0].resume()
            }
            try await user.until("everything is read") { $0.streams[0].readEnded || $0.streams[0].failed }
            let checksum = try await user { $0.streams[0].takeChecksum() }
            #expect(checksum == Pattern.checksum(Self.bytes))
        }
    }

    @Test("where memory is short, it loses its stream")
    func pressure() async throws {
        // Its window of 1 MiB is more than half of it.
        try await pause(memory: 3 << 19) { user in
            try await user.until("the stream is reset") { $0.streams[0].failed }
            #expect(try await user { $0.streams[0].stream.failure?.code } == .timedOut)
        }
    }
}
