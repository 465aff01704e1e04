import H2Transport
import Streams
import TestPeers
import Testing

/// Our client pool and a server that is not ours, with what every such server must do for it.
struct OurClient: Sendable {
    let user: OnLoop<PoolUser>
    let peer: InteropPeer

    static func of(
        _ program: InteropPeer.Program,
        credential: TestCertificates.Kind = .client,
        options: [String] = [],
        pool: H2ClientPool.Configuration = .defaults,
        _ body: (OurClient) async throws -> Void
    ) async throws {
        let (peer, port) = try await InteropPeer.server(program, options: options)
        try await withLoop { loop in
            let user = try await OnLoop(loop) {
                try PoolUser(on: loop, port: port, credential: credential, configuration: pool)
            }
            try await body(OurClient(user: user, peer: peer))
            try await user { $0.close() }
        }
        await peer.stop()
    }

    /// Opens a tunnel, waits for it, and returns its index.
    func open(_ authority: String) async throws -> Int {
        let (before, failures) = try await user {
            $0.open(authority, keepsBytes: true)
            return ($0.streams.count, $0.failures.count)
        }
        try await user.until("the tunnel opens") {
            $0.streams.count > before || $0.failures.count > failures
        }
        let failure = try await user { $0.failures.dropFirst(failures).first }
        if let failure { throw failure }
        return before
    }

    /// Asks for a tunnel that is refused.
    func refusal(_ authority: String) async throws -> ConnectFailure {
        let before = try await user {
            $0.open(authority)
            return $0.failures.count
        }
        try await user.until("the request fails") { $0.failures.count > before }
        return try await user { $0.failures[before] }
    }

    func ended(_ stream: Int) async throws {
        try await user.until("stream \(stream) ends") {
            $0.streams[stream].readEnded || $0.streams[stream].failed
        }
        let reason = try await user { $0.streams[stream].failed ? $0.streams[stream].stream.failure : nil }
        #expect(reason == nil)
    }

    // MARK: Bytes

    /// Up, with the client's end first; both ways at once; and no bytes at all.
    func moves(_ bytes: Int) async throws {
        let (sink, echo) = (try SinkServer(), try EchoServer())
        let up = try await open(sink.authority)
        try await user { $0.streams[up].send(bytes) }
        try await ended(up)
        let answer = try await user { $0.streams[up].text }
        #expect(answer == "\(Pattern.checksum(bytes)) \(bytes)\n")

        let both = try await open(echo.authority)
        try await user { $0.streams[both].send(bytes, seed: 2) }
        try await ended(both)
        let checksum = try await user { $0.streams[both].takeChecksum() }
        #expect(checksum == Pattern.checksum(bytes, seed: 2))

        let empty = try await open(echo.authority)
        try await user { $0.streams[empty].send("", finish: true) }
        try await ended(empty)
        let count = try await user { $0.streams[empty].receivedCount }
        #expect(count == 0)
        #expect(try await sink.transfers(1)[0].ending == .endOfStream)
        #expect(try await echo.transfers(2).allSatisfy { $0.ending == .endOfStream })
        sink.close()
        echo.close()
    }

    enum AfterTheEnd { case stillReads, resets }

    /// Down, with the server's end first. What the client sends after that arrives, or has no reader and is told so.
    func serverEndsFirst(_ bytes: Int, then: AfterTheEnd) async throws {
        let source = try SourceServer(count: bytes)
        let down = try await open(source.authority)
        try await ended(down)
        let checksum = try await user { $0.streams[down].takeChecksum() }
        #expect(checksum == Pattern.checksum(bytes))
        switch then {
        case .stillReads:
            try await user { $0.streams[down].send("late words", finish: true) }
            let transfer = try await source.transfers(1)[0]
            #expect(transfer.received == 10)
            #expect(transfer.ending == .endOfStream)
        case .resets:
            try await user.until("HTTP/2 has forgotten the stream") {
                $0.pool.connections(to: $0.endpoint.key).first?.streamCount == 0
            }
            try await user { $0.streams[down].send("late words") }
            let (refused, failed, code) = try await user {
                ($0.streams[down].writeFailed, $0.streams[down].failed, $0.streams[down].stream.failure?.code)
            }
            // EPIPE for the writer; the reader's end stays clean.
            #expect(refused)
            #expect(!failed)
            #expect(code == .closed)
        }
        source.close()
    }

    // MARK: Aborts

    /// The backend's RST.
    func backendAborts() async throws -> (ended: Bool, code: StreamError.Code?) {
        let backend = try await OnLoop(user.loop) { [loop = user.loop] in try AbortingServer(on: loop) }
        let port = try await backend { $0.port }
        let stream = try await open("127.0.0.1:\(port)")
        try await user { $0.streams[stream].send("hello") }
        try await backend.until("the bytes arrive") { $0.reads == 5 }
        try await backend { $0.abort() }
        try await user.until("the stream is over") { $0.streams[stream].failed || $0.streams[stream].readEnded }
        try await backend { $0.close() }
        return try await user { ($0.streams[stream].readEnded, $0.streams[stream].stream.failure?.code) }
    }

    /// Our abort, and our giving up: the backend is reset by both.
    func weAbort() async throws {
        for reason in [StreamError.Code.reset, .closed] {
            let echo = try EchoServer()
            let stream = try await open(echo.authority)
            try await user { $0.streams[stream].send("hello") }
            try await user.until("the echo comes") { $0.streams[stream].receivedCount == 5 }
            try await user { $0.streams[stream].stream.reset(StreamError(reason, "the client aborts")) }
            let transfer = try await echo.transfers(1)[0]
            #expect(transfer.ending == .broken(104), "for \(reason)")
            echo.close()
        }
    }

    // MARK: Connections

    /// That many tunnels at once on one connection, each with its own bytes; one more makes a second connection.
    func limit(_ count: Int) async throws {
        let echo = try EchoServer()
        // The peer's SETTINGS are here when one tunnel is open.
        _ = try await open(echo.authority)
        try await user { user in for _ in 1..<count { user.open(echo.authority) } }
        try await user.until("all tunnels open") {
            $0.streams.count == count || !$0.failures.isEmpty
        }
        let (connected, failures) = try await user { ($0.connected, $0.failures) }
        #expect(failures == [])
        #expect(connected == 1)
        try await user { user in
            for (index, end) in user.streams.enumerated() { end.send(10_000, seed: UInt64(index)) }
        }
        try await user.until("all echoes are back") { $0.streams.allSatisfy(\.readEnded) }
        let checksums = try await user { $0.streams.map { $0.takeChecksum() } }
        #expect(checksums.indices.allSatisfy { checksums[$0] == Pattern.checksum(10_000, seed: UInt64($0)) })

        try await user { user in for _ in 0...count { user.open(echo.authority) } }
        try await user.until("one more than the limit") {
            $0.streams.count == 2 * count + 1 || !$0.failures.isEmpty
        }
        let second = try await user { ($0.connected, $0.failures) }
        #expect(second.0 == 2)
        #expect(second.1 == [])
        echo.close()
    }

    /// The peer's GOAWAY: `begin` makes it send one. The open stream lives on, a new one takes a new connection.
    func drains(_ begin: () async throws -> Void) async throws {
        let echo = try EchoServer()
        let old = try await open(echo.authority)
        try await begin()
        try await user.until("the pool knows of the GOAWAY") { $0.draining >= 1 }
        let new = try await open(echo.authority)
        let (connected, failures) = try await user { ($0.connected, $0.failures) }
        #expect(connected == 2)
        #expect(failures == [])
        for stream in [old, new] {
            try await user { $0.streams[stream].send(300_000, seed: UInt64(stream)) }
            try await ended(stream)
            let checksum = try await user { $0.streams[stream].takeChecksum() }
            #expect(checksum == Pattern.checksum(300_000, seed: UInt64(stream)))
        }
        echo.close()
    }
}
