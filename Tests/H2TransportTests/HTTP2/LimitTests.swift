import H2Transport
import Streams
import TestPeers
import Testing

/// Floods: the connection is told to calm down and closed, and the counter says why. (Attack table: RFC 9113 §10.5.)
@Suite struct LimitTests {
    private func flood(
        _ configuration: H2Configuration,
        counter: any KeyPath<H2ConnectionCounters, UInt64> & Sendable,
        command: (Int) -> String
    ) async throws {
        let accept: @Sendable (PeerSide, PendingConnect) -> Void = { _, pending in _ = pending.accept() }
        try await withServer(configuration, onRequest: accept) { ours, peer in
            for index in 0..<200 {
                let line = command(index)
                do { try peer.send(line) } catch { break }
            }
            let goAway = try await peer.event("ConnectionTerminated")
            #expect(goAway["error_code"] == 11)
            try await ours.until("the connection ends") { $0.log.isClosed }
            let (code, count) = try await ours { ($0.log.failure?.code, $0.connection.counters[keyPath: counter]) }
            #expect(code == .limit)
            #expect(count > 20)
        }
    }

    private var strict: H2Configuration {
        var configuration = H2Configuration.defaults
        configuration.limits.controlFrames = .init(burst: 20, perSecond: 0)
        configuration.limits.earlyResets = .init(burst: 20, perSecond: 0)
        configuration.limits.provokedResets = .init(burst: 20, perSecond: 0)
        return configuration
    }

    @Test("PING flood")
    func pings() async throws {
        try await flood(strict, counter: \.controlFramesReceived) { _ in "ping 12345678" }
    }

    @Test("SETTINGS flood")
    func settings() async throws {
        try await flood(strict, counter: \.controlFramesReceived) { _ in "frame 4 0 0 000400010000" }
    }

    @Test("PRIORITY frames are ignored: there is no tree to maintain (CVE-2019-9513)")
    func priorities() async throws {
        try await withServer(strict) { ours, peer in
            for index in 0..<200 { try peer.send("frame 2 \(index * 2 + 1) 0 0000000010") }
            try peer.send("headers 1 :method=CONNECT :authority=10.0.0.1:80")
            try await ours.until("the request arrives") { $0.log.requests.count == 1 }
            let isClosed = try await ours { $0.log.isClosed }
            #expect(!isClosed)
        }
    }

    @Test("DATA frames that carry nothing")
    func emptyData() async throws {
        try await flood(strict, counter: \.controlFramesReceived) {
            $0 == 0 ? "headers 1 :method=CONNECT :authority=10.0.0.1:80" : "frame 0 1 0"
        }
    }

    @Test("rapid reset (CVE-2023-44487)")
    func rapidReset() async throws {
        try await flood(strict, counter: \.earlyResetsReceived) { index in
            let id = index * 2 + 1
            return "headers \(id) :method=CONNECT :authority=10.0.0.1:80\nreset \(id) 8"
        }
    }

    @Test("resets provoked by rule-breaking on a stream (CVE-2025-8671)")
    func provokedResets() async throws {
        // A window that overflows is an error of the stream.
        try await flood(strict, counter: \.provokedResets) { index in
            let id = index * 2 + 1
            return "headers \(id) :method=CONNECT :authority=10.0.0.1:80\nframe 8 \(id) 0 7fffffff"
        }
    }

    @Test("a peer that reads nothing of what it asks for is not read either")
    func outputBacklog() async throws {
        var configuration = H2Configuration.defaults
        configuration.limits.controlFrames = .init(burst: 1_000_000, perSecond: 0)
        configuration.limits.outboundFrames = 16
        try await withLoop { loop in
            // A pipe of one kilobyte: answers to PING soon find no room.
            let test = try await OnLoop(loop) { [configuration] in
                let (ours, theirs) = MemoryStream.pair(on: loop, capacity: 1024)
                return Backlog(
                    try H2Connection(over: ours, role: .server, configuration: configuration, delegate: nil),
                    theirs
                )
            }
            try await test.until("reading stops") {
                $0.flood()
                return $0.connection.counters.inputPauses > 0
            }
            // Then the pipe toward us fills up, too.
            try await test.until("the flood is held back") { $0.flood() == 0 }
            let before = try await test { $0.connection.counters.bytesReceived }
            try await test.until("reading goes on once the answers are read") {
                $0.drain()
                $0.flood()
                return $0.connection.counters.bytesReceived > before + 4096
            }
            try await test {
                $0.connection.abort(StreamError(.closed, "the test is over"))
                $0.peer.close()
            }
        }
    }

    private final class Backlog {
        let connection: H2Connection
        let peer: MemoryStream
        private var bytes: [UInt8]
        private var sent = 0

        init(_ connection: H2Connection, _ peer: MemoryStream) {
            self.connection = connection
            self.peer = peer
            let ping: [UInt8] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
            bytes = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8) + [0, 0, 0, 4, 0, 0, 0, 0, 0]
            for _ in 0..<5000 { bytes += ping }
        }

        @discardableResult
        func flood() -> Int {
            guard case .bytes(let count) = bytes[sent...].withUnsafeBytes({ peer.write($0) }) else { return 0 }
            sent += count
            return count
        }

        func drain() {
            withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 1) { buffer in
                while case .bytes = peer.read(into: buffer) {}
            }
        }
    }
}
