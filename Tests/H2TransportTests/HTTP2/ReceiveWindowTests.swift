import H2Transport
import Streams
import TestPeers
import Testing

@testable import H2Transport

private let millisecond: UInt64 = 1_000_000

/// The window is fitted to the path and to its reader.
@Suite struct ReceiveWindowTests {
    private let range = (1 << 20)...(32 << 20)

    /// Takes half of the window every `interval`, `times` over, as the credit of a stream is given.
    private func run(
        _ window: inout ReceiveWindow,
        every interval: UInt64,
        roundTrip: UInt64,
        times: Int,
        from start: UInt64 = 1
    ) -> [Int] {
        var sizes: [Int] = []
        for index in 0..<times {
            let now = start + UInt64(index) * interval
            if let size = window.took(window.size / 2, at: now, roundTrip: roundTrip, in: range) {
                _ = window.resize(to: size)
                sizes.append(size)
            }
        }
        return sizes
    }

    @Test("a window that is taken within a round trip doubles until it holds two of them")
    func grows() {
        var window = ReceiveWindow(size: 1 << 20)
        var now: UInt64 = 1
        // 100 MB/s at 100 ms: 10 MB a round trip. The sender is bounded by its window or by the link.
        for _ in 0..<100 {
            let half = window.size / 2
            let byLink = UInt64(half) * 10
            let byWindow = 100 * millisecond / 2
            now += max(byLink, byWindow)
            if let size = window.took(half, at: now, roundTrip: 100 * millisecond, in: range) {
                _ = window.resize(to: size)
            }
        }
        #expect((18_000_000...22_000_000).contains(window.size))
    }

    @Test("on a short path the first window stays")
    func staysOnLoopback() {
        var window = ReceiveWindow(size: 1 << 20)
        // 1 GB/s at 0.1 ms.
        #expect(run(&window, every: millisecond / 2, roundTrip: millisecond / 10, times: 1000) == [])
    }

    @Test("a slow reader never makes it grow, and loses what it had")
    func slowReader() {
        var window = ReceiveWindow(size: 1 << 20)
        #expect(run(&window, every: 1000 * millisecond, roundTrip: 100 * millisecond, times: 100) == [])
        _ = window.resize(to: 32 << 20)
        let sizes = run(&window, every: 10_000 * millisecond, roundTrip: 100 * millisecond, times: 20, from: 1 << 50)
        #expect(sizes.first.map { $0 < 4 << 20 } == true)
        #expect(window.size >= 1 << 20)
    }

    @Test("what was granted and is not wanted any more is kept back from the credit, and given again first")
    func excess() {
        var window = ReceiveWindow(size: 1000)
        #expect(window.resize(to: 5000) == 4000)
        #expect(window.resize(to: 2000) == 0)
        #expect(window.credit(for: 1000) == 0)
        #expect(window.resize(to: 3500) == 0)
        #expect(window.credit(for: 1000) == 500)
        #expect(window.credit(for: 1000) == 1000)
        // 6500 were granted in all: the 3000 that were taken, and the window.
        #expect(window.size == 3500)
    }

    @Test("it stays between its bounds, and as it is while no round trip is known")
    func bounds() {
        var window = ReceiveWindow(size: 1 << 20)
        #expect(run(&window, every: millisecond, roundTrip: 0, times: 100) == [])
        _ = run(&window, every: millisecond, roundTrip: 1000 * millisecond, times: 100_000)
        #expect(window.size == range.upperBound)
    }
}

/// The same over a path with a real delay.
@Suite(.timeLimit(.minutes(10))) struct LongPathTests {
    /// Runs `body` with a client whose connection to the server takes `roundTrip` milliseconds there and back.
    private func withLongPath(
        roundTrip: Int,
        _ body: (OnLoop<PoolUser>) async throws -> Void
    ) async throws {
        try await withLoop { loop in
            let server = try await OnLoop(loop) { try RelayingServer(on: loop) }
            let path = try ChildProcess(
                TestTools.python,
                [
                    "-u", TestTools.repository + "/Tests/Peers/network/delay.py",
                    "127.0.0.1:\(try await server { $0.port })", "--round-trip", "\(roundTrip)",
                ],
                keepsInputOpen: true
            )
            try await eventually("the long path listens") { path.standardOutput.bytes.contains(UInt8(ascii: "\n")) }
            let port = try #require(UInt16(path.standardOutput.lines[0]))
            let user = try await OnLoop(loop) { try PoolUser(on: loop, port: port) }
            try await body(user)
            try await user { $0.close() }
            try await server { $0.close() }
            await path.stop()
        }
    }

    private func counters(_ user: OnLoop<PoolUser>) async throws -> H2ConnectionCounters {
        try await user { $0.pool.connections(to: $0.endpoint.key)[0].counters }
    }

    @Test("a download over a long path gets a window that is not in its way")
    func grows() async throws {
        let source = try SourceServer(count: 60_000_000)
        try await withLongPath(roundTrip: 100) { user in
            try await user { try $0.relay(source.authority) }
            try await user.until("everything is read") { $0.streams.first?.readEnded == true }
            let checksum = try await user { $0.streams[0].takeChecksum() }
            #expect(checksum == Pattern.checksum(60_000_000))
            // Even where this machine moves 15 MB/s only.
            let window = try await counters(user).largestWindow
            #expect(window >= 3 << 20)
            let roundTrip = try await user { $0.pool.connections(to: $0.endpoint.key)[0].roundTrip.smallest }
            #expect(roundTrip >= 100 * millisecond)
        }
        source.close()
    }

    @Test("a reader that stops costs its window, and the path is free for others")
    func slowReader() async throws {
        let source = try SourceServer(count: 60_000_000)
        let echo = try EchoServer()
        try await withLongPath(roundTrip: 40) { user in
            try await user { $0.open(source.authority) }
            try await user.until("the first stream opens") { $0.streams.count == 1 }
            try await user {
                $0.streams[0].readLimit = 1 << 20
                $0.open(echo.authority)
            }
            try await user.until("the second stream opens") { $0.streams.count == 2 }
            try await user { $0.streams[1].send(1_000_000) }
            try await user.until("the other stream has its echo") { $0.streams[1].readEnded }
            let (queued, window) = try await user {
                let connection = $0.pool.connections(to: $0.endpoint.key)[0]
                return (connection.queuedBytes, max(connection.counters.largestWindow, 1 << 20))
            }
            #expect(queued <= window)
        }
        source.close()
        echo.close()
    }
}
