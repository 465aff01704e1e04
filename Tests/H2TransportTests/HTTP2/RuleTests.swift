import Streams
import TestPeers
import Testing

@testable import H2Transport

/// Corners of RFC 9113: what a peer must not do, and what becomes of it.
@Suite(.timeLimit(.minutes(10))) struct RuleTests {
    /// With a budget that no other test uses.
    private var configuration: H2Configuration {
        var configuration = H2Configuration.defaults
        configuration.memory = H2MemoryBudget(limit: 1 << 28)
        return configuration
    }

    // MARK: Trailers

    @Test("a request for a tunnel with trailers in the same read is an error of the stream, and nobody is asked")
    func requestAndTrailers() async throws {
        try await withAttackedServer(configuration) { server, peer in
            try peer.send("flood 1 1:1:4:\(FramePeer.connect) 1:1:5:\(FramePeer.trailers)")
            #expect(try await peer.event("reset") { $0["stream_id"] == 1 }["error_code"] == 1)
            try peer.send("request 3 10.0.0.1:80")
            #expect(try await peer.event("headers")["stream_id"] == 3)
            #expect(try await server { $0.streams.count } == 1)
        }
    }

    @Test("trailers on an open tunnel are an error of the stream, and no clean end", arguments: [4, 5])
    func trailersOnTunnel(_ flags: Int) async throws {
        try await withAttackedServer(configuration) { server, peer in
            try peer.send("request 1 10.0.0.1:80")
            try await peer.event("headers")
            // Ones that do not end the stream are malformed, which nghttp2 knows.
            try peer.send("flood 1 1:1:\(flags):\(FramePeer.trailers)")
            #expect(try await peer.event("reset") { $0["stream_id"] == 1 }["error_code"] == 1)
            try await server.until("the stream fails") { $0.streams[0].failed }
            #expect(try await server { !$0.streams[0].readEnded })
        }
    }

    @Test("malformed requests give their streams back")
    func noStreamIsLost() async throws {
        var configuration = configuration
        configuration.limits.provokedResets = .init(burst: 10_000, perSecond: 0)
        try await withAttackedServer(configuration) { server, peer in
            for start in [1, 2001] {
                try peer.send("flood 900 1:\(start)+:4:\(FramePeer.connect) 1:\(start)+:5:\(FramePeer.trailers)")
                try await server.until("all are reset") {
                    $0.attacker?.counters.resetsSent == UInt64(start / 2000 + 1) * 900 && $0.attacker?.streamCount == 0
                }
            }
            try peer.send("request 5001 10.0.0.1:80")
            #expect(try await peer.event("headers")["stream_id"] == 5001)
            try await server.until("only that one is left") { $0.attacker?.streamCount == 1 }
        }
    }

    @Test("malformed requests are counted as work for nothing")
    func malformedRequests() async throws {
        try await withAttackedServer(configuration) { server, peer in
            try peer.send("flood 900 1:1+:4:\(FramePeer.connect) 1:1+:5:\(FramePeer.trailers)")
            #expect(try await peer.event("goaway")["error_code"] == 11)
            try await server.until("the connection ends") { $0.attackerLog?.isClosed == true }
        }
    }

    @Test("a refusal with trailers in the same read is the refusal")
    func refusalAndTrailers() async throws {
        try await withClient { ours, peer in
            try await ours { $0.open() }
            try await peer.event("RequestReceived")
            // :status 503, and trailers.
            try peer.send("raw 0000050104000000014803353033" + "000009010500000001" + FramePeer.trailers)
            try await ours.until("the request fails") { $0.failures.count == 1 }
            #expect(try await ours { $0.failures[0].response?.status } == 503)
        }
    }

    // MARK: Heads

    @Test("an answer without a status that means anything fails at once", arguments: ["000", "099"])
    func status(_ status: String) async throws {
        try await withClient { ours, peer in
            try await ours { $0.open() }
            try await peer.event("RequestReceived")
            try peer.send("headers 1 :status=\(status)")
            try await ours.until("the request fails") { $0.failures.count == 1 }
            #expect(try await ours { $0.failures[0].error.code } == .protocolViolation)
            #expect(try await peer.event("StreamReset")["error_code"] == 1)
        }
    }

    @Test(
        "host must name what :authority names",
        arguments: [
            ("other.example", false), ("Proxy.Example", true), ("proxy.example:443", true), ("proxy.example:80", false),
        ]
    )
    func host(_ host: String, _ isRight: Bool) async throws {
        try await withServer { ours, peer in
            let head = ":method=POST :scheme=https :path=/ :authority=proxy.example"
            try peer.send("headers 1 \(head) host=\(host) x-tun=10.0.0.9:22")
            if isRight {
                try await ours.until("the request arrives") { $0.log.requests.count == 1 }
            } else {
                #expect(try await peer.event("StreamReset")["error_code"] == 1)
                #expect(try await ours { $0.log.requests.isEmpty })
            }
        }
    }

    /// nghttp2 decides: see docs/protocol.md.
    @Test("204 opens a tunnel that carries nothing from the server")
    func noContent() async throws {
        try await withClient { ours, peer in
            try await ours { $0.open() }
            try await peer.event("RequestReceived")
            try peer.send("headers 1 :status=204")
            try await ours.until("the tunnel opens") { $0.streams.count == 1 }
            try peer.send("data 1 hello")
            try await ours.until("it fails") { $0.streams[0].failed }
            #expect(try await peer.event("StreamReset")["error_code"] == 1)
        }
    }

    // MARK: The connection

    @Test("PRIORITY on stream 0 is an error of the connection")
    func priorityOfConnection() async throws {
        try await withAttackedServer(configuration) { server, peer in
            try peer.send("flood 1 2:0:0:0000000010")
            #expect(try await peer.event("goaway")["error_code"] == 1)
            try await server.until("the connection ends") { $0.attackerLog?.failure?.code == .protocolViolation }
        }
    }

    @Test("a stream that was left out is an error of the connection")
    func skippedStream() async throws {
        try await withAttackedServer(configuration) { server, peer in
            try peer.send("request 1 10.0.0.1:80", "request 7 10.0.0.1:80")
            try await peer.event("headers") { $0["stream_id"] == 7 }
            try peer.send("request 5 10.0.0.1:80")
            #expect(try await peer.event("goaway")["error_code"] == 1)
            try await server.until("the connection ends") { $0.attackerLog?.failure?.code == .protocolViolation }
        }
    }

    @Test("what comes late for a stream that has ended is not")
    func lateTrailers() async throws {
        try await withAttackedServer(configuration) { _, peer in
            for stream in [1, 3] {
                try peer.send("request \(stream) 10.0.0.1:80")
                try await peer.event("headers") { $0["stream_id"] == stream }
            }
            try peer.send("flood 1 3:1:0:00000008 1:1:5:\(FramePeer.trailers)", "request 5 10.0.0.1:80")
            try await peer.event("headers") { $0["stream_id"] == 5 }
        }
    }

    @Test("identifiers that a client leaves out are remembered, up to a number")
    func identifiers() {
        var streams = ClientStreams()
        var answers: [Bool] = []
        for id: Int32 in [1, 3, 9, 9, 1, 5, 7, 11, 5] { answers.append(streams.begin(id)) }
        #expect(answers == [true, true, true, true, true, false, false, true, false])
        for gap: Int32 in 1...100 { _ = streams.begin(11 + 4 * gap) }
        let (early, late) = (streams.begin(13), streams.begin(11 + 4 * 100 - 2))
        #expect(!early)
        #expect(late)
    }

    @Test("the largest identifier has no successor, and needs none")
    func largestIdentifier() {
        var streams = ClientStreams()
        var answers: [Bool] = []
        for id: Int32 in [.max, .max, 1] { answers.append(streams.begin(id)) }
        #expect(answers == [true, true, false])
    }

    @Test("SETTINGS by which a window overflows are an error of the connection")
    func windowOverflow() async throws {
        try await withAttackedServer(configuration) { server, peer in
            try peer.send("request 1 10.0.0.1:80")
            try await peer.event("headers")
            // 2³¹−1 with what it begins with; and one more.
            try peer.send("flood 1 8:1:0:7fff0000", "flood 1 4:0:0:000400010000")
            #expect(try await peer.event("goaway")["error_code"] == 3)
            try await server.until("the connection ends") { $0.attackerLog?.failure?.code == .protocolViolation }
        }
    }

    @Test("SETTINGS by which a window becomes as large as it may be are none")
    func largestWindow() async throws {
        try await withAttackedServer(configuration) { _, peer in
            try peer.send("request 1 10.0.0.1:80")
            try await peer.event("headers")
            try peer.send("flood 1 8:1:0:7ffe0000", "flood 1 4:0:0:00040001ffff", "request 3 10.0.0.1:80")
            try await peer.event("headers") { $0["stream_id"] == 3 }
        }
    }

    @Test("DATA beyond what was granted on the wire is an error of the connection, whoever does not read")
    func beyondTheWindow() async throws {
        var configuration = H2Configuration.defaults
        configuration.windows.stream = 65535
        configuration.windows.connection = 65535
        try await withLoop { loop in
            let test = try await OnLoop(loop) { [configuration] in
                let (ours, theirs) = MemoryStream.pair(on: loop, capacity: 4096)
                return Unread(
                    try H2Connection(over: ours, role: .server, configuration: configuration, delegate: nil),
                    theirs
                )
            }
            try await test.until("it is noticed, though none of the answers is read") {
                $0.send()
                return $0.connection.counters.invalidFramesReceived > 0
            }
            try await test.until("the connection ends") {
                $0.send()
                $0.drain()
                return $0.connection.failure?.code == .protocolViolation
            }
            // GOAWAY with FLOW_CONTROL_ERROR.
            #expect(try await test { $0.answers.suffix(4) } == [0, 0, 0, 3])
            try await test { $0.peer.close() }
        }
    }

    /// A client that sends 120,000 bytes on four streams, and has not read since the beginning.
    private final class Unread {
        let connection: H2Connection
        let peer: MemoryStream
        private(set) var answers: [UInt8] = []
        private let log = ConnectionLog()
        private var bytes: [UInt8]
        private var sent = 0

        init(_ connection: H2Connection, _ peer: MemoryStream) {
            self.connection = connection
            self.peer = peer
            connection.delegate = log
            bytes = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8) + [0, 0, 0, 4, 0, 0, 0, 0, 0]
            for _ in 0..<300 { bytes += [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8] }
            let request: [UInt8] =
                [2, 7] + Array("CONNECT".utf8) + [1, 11] + Array("10.0.0.1:80".utf8)
            for stream: UInt8 in [1, 3, 5, 7] {
                bytes += [0, 0, UInt8(request.count), 1, 4, 0, 0, 0, stream] + request
                for _ in 0..<30 {
                    bytes += [0, 0x03, 0xe8, 0, 0, 0, 0, 0, stream] + [UInt8](repeating: 0, count: 1000)
                }
            }
        }

        func send() {
            guard sent < bytes.count,
                case .bytes(let count) = bytes[sent...].withUnsafeBytes({ peer.write($0) })
            else { return }
            sent += count
        }

        func drain() {
            withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 1) { buffer in
                while case .bytes(let count) = peer.read(into: buffer) { answers += buffer[..<count] }
            }
        }
    }
}
