import H2Transport
import Streams
import TestPeers
import Testing

/// The attacks that HTTP/2 is known for, frame by frame, on our server and on our client (RFC 9113 §10.5). Whatever the
/// attacker's own connection comes to, another peer's bytes arrive whole, and nothing is held afterwards.
@Suite struct AttackTests {
    enum Outcome: Sendable {
        /// ENHANCE_YOUR_CALM, and this counter says why.
        case cutOff(any KeyPath<H2ConnectionCounters, UInt64> & Sendable)
        /// The connection was closed for breaking the protocol.
        case closed
        /// Only the stream was reset, with this code.
        case reset(Int, code: Int)
        /// Nothing happens to anybody; other streams of the same connection work.
        case survived
    }

    struct Attack: Sendable, CustomTestStringConvertible {
        let testDescription: String
        let commands: [String]
        let outcome: Outcome

        init(_ name: String, _ commands: String..., outcome: Outcome) {
            testDescription = name
            self.commands = commands
            self.outcome = outcome
        }
    }

    /// Rates so low that 200 frames exceed each of them.
    private var strict: H2Configuration {
        var configuration = H2Configuration.defaults
        let rate = H2Configuration.Rate(burst: 20, perSecond: 0)
        configuration.limits.controlFrames = rate
        configuration.limits.earlyResets = rate
        configuration.limits.provokedResets = rate
        configuration.limits.windowUpdates = rate
        configuration.windows.stream = 100_000
        configuration.windows.connection = 1_000_000
        configuration.memory = H2MemoryBudget(limit: 8 << 20)
        return configuration
    }

    // MARK: On our server

    /// `:method CONNECT`, `:authority 10.0.0.1:80`, without indexing.
    private static let connect = FramePeer.connect
    /// A field of 4 KB enters the dynamic table and is then referred to 11,000 times by one byte.
    private static let bomb = "4001787fbd1d,61*3900,be*11000"
    /// 300 fields, 12 KB of text, counted as 22 KB.
    private static let manyFields = "0001780461616161*300"

    static let serverAttacks: [Attack] = [
        Attack(
            "rapid reset (CVE-2023-44487)",
            "flood 200 1:1+:4:\(connect) 3:1+:0:00000008",
            outcome: .cutOff(\.earlyResetsReceived)
        ),
        Attack(
            "MadeYouReset by windows that overflow (CVE-2025-8671)",
            "flood 200 1:1+:4:\(connect) 8:1+:0:7fffffff",
            outcome: .cutOff(\.provokedResets)
        ),
        Attack(
            "MadeYouReset by malformed headers",
            "flood 200 1:1+:4:\(connect),0001410161",
            outcome: .cutOff(\.provokedResets)
        ),
        Attack(
            "CONTINUATION flood (CVE-2024-28182)",
            "flood 1 1:1:0:\(connect)",
            "flood 2000 9:1:0:0001780179",
            outcome: .closed
        ),
        Attack("header bytes", "flood 1 1:1:4:\(connect),\(bomb)", outcome: .survived),
        Attack("header fields", "flood 1 1:1:4:\(connect),\(manyFields)", outcome: .survived),
        Attack(
            "a flood of headers that are too large",
            "flood 200 1:1+:4:\(connect),\(manyFields)",
            outcome: .cutOff(\.headersTooLarge)
        ),
        Attack(
            "PING flood (CVE-2019-9512)",
            "flood 200 6:0:0:0102030405060708",
            outcome: .cutOff(\.controlFramesReceived)
        ),
        Attack(
            "answers to PINGs that were never sent",
            "flood 200 6:0:1:0102030405060708",
            outcome: .cutOff(\.controlFramesReceived)
        ),
        Attack("SETTINGS flood (CVE-2019-9515)", "flood 200 4:0:0:", outcome: .cutOff(\.controlFramesReceived)),
        Attack(
            "GOAWAY flood",
            "flood 1 1:1:4:\(connect)",
            "flood 200 7:0:0:0000000000000000",
            outcome: .cutOff(\.controlFramesReceived)
        ),
        Attack(
            "DATA without payload (CVE-2019-9518)",
            "flood 1 1:1:4:\(connect)",
            "flood 200 0:1:0:",
            outcome: .cutOff(\.controlFramesReceived)
        ),
        Attack(
            "DATA with padding only",
            "flood 1 1:1:4:\(connect)",
            "flood 200 0:1:8:03000000",
            outcome: .cutOff(\.controlFramesReceived)
        ),
        Attack(
            "WINDOW_UPDATE flood on the connection",
            "flood 400 8:0:0:00000001",
            outcome: .cutOff(\.excessWindowUpdates)
        ),
        Attack(
            "WINDOW_UPDATE flood on a stream",
            "flood 1 1:1:4:\(connect)",
            "flood 400 8:1:0:00000001",
            outcome: .cutOff(\.excessWindowUpdates)
        ),
        Attack("PRIORITY flood (CVE-2019-9513)", "flood 500 2:1+:0:0000000010", outcome: .survived),
        Attack("frames of an unknown type", "flood 500 99:0:0:00", outcome: .survived),
        Attack("WINDOW_UPDATE of nothing", "flood 1 1:1:4:\(connect) 8:1:0:00000000", outcome: .closed),
        Attack("DATA on a stream that never was", "flood 1 0:5:0:00", outcome: .closed),
        Attack("a stream of the server's", "flood 1 1:2:4:\(connect)", outcome: .closed),
        Attack("RST_STREAM before the request", "flood 1 3:5:0:00000008", outcome: .closed),
        Attack("CONTINUATION without HEADERS", "flood 1 9:1:4:00", outcome: .closed),
        Attack("PUSH_PROMISE from a client", "flood 1 1:1:4:\(connect) 5:1:4:00000002,\(connect)", outcome: .closed),
        Attack("a frame that is too large", "flood 1 0:1:0:00*100000", outcome: .closed),
        Attack("a header block that cannot be decoded", "flood 1 1:1:4:ffffffffff", outcome: .closed),
        Attack(
            "more DATA than the stream's window",
            "request 1 10.0.0.1:80",
            "fill 1 200000",
            outcome: .reset(1, code: 3)
        ),
        // Smuggling: RFC 9113 §8.5 and §8.2.
        Attack("CONNECT with scheme and path", "flood 1 1:1:4:\(connect),8784", outcome: .reset(1, code: 1)),
        Attack("CONNECT without authority", "flood 1 1:1:4:0207434f4e4e454354", outcome: .reset(1, code: 1)),
        Attack(
            "CR LF in the authority",
            "flood 1 1:1:4:0207434f4e4e454354,0106610d0a3a3830",
            outcome: .reset(1, code: 1)
        ),
        Attack(
            "a header field of HTTP/1 connections",
            "flood 1 1:1:4:\(connect),000a636f6e6e656374696f6e05636c6f7365",
            outcome: .reset(1, code: 1)
        ),
    ]

    @Test("on our server", arguments: serverAttacks)
    func onServer(_ attack: Attack) async throws {
        try await withAttackedServer(strict) { server, peer in
            // A reader that takes nothing, so that a window can be exceeded.
            if case .reset(_, code: 3) = attack.outcome { try await server { $0.readLimit = 0 } }
            for command in attack.commands { try peer.send(command) }
            switch attack.outcome {
            case .cutOff(let counter):
                try await server.until("the attacker is cut off") { $0.attackerLog?.isClosed == true }
                let (code, count, floods) = try await server {
                    let counters = $0.attacker?.counters ?? H2ConnectionCounters()
                    return ($0.attackerLog?.failure?.code, counters[keyPath: counter], counters.floods)
                }
                #expect(code == .limit)
                #expect(count > 20)
                #expect(floods == 1)
                #expect(try await peer.event("goaway") { $0["error_code"] != 0 }["error_code"] == 11)
            case .closed:
                try await server.until("the connection is closed") { $0.attackerLog?.isClosed == true }
                let code = try await server { $0.attackerLog?.failure?.code }
                #expect(code == .protocolViolation)
            case .reset(let stream, let code):
                #expect(try await peer.event("reset") { $0["stream_id"] == stream }["error_code"] == code)
                try await otherStream(server, peer)
            case .survived:
                try await otherStream(server, peer)
            }
        }
    }

    /// The attacker's connection goes on to serve.
    private func otherStream(_ server: OnLoop<AttackedServer>, _ peer: FramePeer) async throws {
        let count = try await server { server in
            server.readLimit = .max
            return server.streams.count
        }
        try peer.send("request 1001 10.0.0.1:80", "flood 1 0:1001:1:6161")
        try await server.until("another stream is served") { $0.streams.count > count && $0.streams[count].readEnded }
        let received = try await server { $0.streams[count].receivedCount }
        #expect(received == 2)
    }

    @Test("tiny DATA frames are what a terminal sends, and no attack")
    func tinyData() async throws {
        try await withAttackedServer(strict) { server, peer in
            try peer.send("request 1 10.0.0.1:80", "flood 3000 0:1:0:61", "flood 1 0:1:1:61")
            try await server.until("every byte arrives") { $0.streams.first?.readEnded == true }
            let received = try await server { $0.streams[0].receivedCount }
            #expect(received == 3001)
        }
    }

    @Test("headers over the limit are answered 431, and are not kept")
    func headerLimits() async throws {
        try await withAttackedServer(strict) { server, peer in
            try peer.send(
                "flood 1 1:1:4:\(Self.connect),\(Self.bomb)",
                "flood 1 1:3:4:\(Self.connect),\(Self.manyFields)"
            )
            for stream in [1, 3] {
                #expect(try await peer.event("headers") { $0["stream_id"] == stream }["status"] == 431)
            }
            let (count, requests) = try await server { ($0.attacker?.counters.headersTooLarge, $0.streams.count) }
            #expect(count == 2)
            #expect(requests == 0)
        }
    }

    @Test("no more streams than announced")
    func concurrentStreams() async throws {
        var configuration = strict
        configuration.limits.concurrentStreams = 10
        try await withAttackedServer(configuration) { server, peer in
            try peer.send("flood 30 1:1+:4:\(Self.connect)")
            // Refused one by one before SETTINGS were acknowledged, a broken protocol after that.
            try await server.until("the rest is refused") { server in
                server.attackerLog?.isClosed == true || server.attacker?.counters.streamsRefused == 20
            }
            let accepted = try await server { $0.streams.count }
            #expect(accepted <= 10)
        }
    }

    // MARK: On our client

    /// On stream 1, which our client has opened and which is answered first where the commands say so.
    static let clientAttacks: [Attack] = [
        Attack("PING flood", "flood 200 6:0:0:0102030405060708", outcome: .cutOff(\.controlFramesReceived)),
        Attack(
            "answers to PINGs never sent",
            "flood 200 6:0:1:01020304050607ff",
            outcome: .cutOff(\.controlFramesReceived)
        ),
        Attack("SETTINGS flood", "flood 200 4:0:0:", outcome: .cutOff(\.controlFramesReceived)),
        Attack(
            "GOAWAY flood",
            "answer 1",
            "flood 200 7:0:0:7fffffff00000000",
            outcome: .cutOff(\.controlFramesReceived)
        ),
        Attack("103 without end", "flood 200 1:1:4:0803313033", outcome: .cutOff(\.controlFramesReceived)),
        Attack("DATA without payload", "answer 1", "flood 200 0:1:0:", outcome: .cutOff(\.controlFramesReceived)),
        Attack("DATA with padding only", "answer 1", "flood 200 0:1:8:0100", outcome: .cutOff(\.controlFramesReceived)),
        Attack("WINDOW_UPDATE flood", "answer 1", "flood 400 8:0:0:00000001", outcome: .cutOff(\.excessWindowUpdates)),
        Attack("CONTINUATION flood", "flood 1 1:1:0:88", "flood 2000 9:1:0:0001780179", outcome: .closed),
        Attack("PUSH_PROMISE", "flood 1 5:1:4:00000002,\(connect)", outcome: .closed),
        Attack("a request from a server", "flood 1 1:2:4:\(connect)", outcome: .closed),
        Attack("an answer that nobody asked for", "flood 1 1:99:4:88", outcome: .closed),
        Attack("DATA on a stream that never was", "flood 1 0:99:0:00", outcome: .closed),
        Attack("a window that overflows", "answer 1", "flood 1 8:1:0:7fffffff", outcome: .reset(1, code: 3)),
        Attack("more DATA than the stream's window", "answer 1", "fill 1 200000", outcome: .reset(1, code: 3)),
        Attack("headers that are too large", "flood 1 1:1:4:88,\(bomb)", outcome: .reset(1, code: 8)),
        Attack("too many header fields", "flood 1 1:1:4:88,\(manyFields)", outcome: .reset(1, code: 8)),
        Attack("PRIORITY flood", "flood 500 2:1+:0:0000000010", outcome: .survived),
        Attack("frames of an unknown type", "flood 500 99:0:0:00", outcome: .survived),
    ]

    @Test("on our client", arguments: clientAttacks)
    func onClient(_ attack: Attack) async throws {
        try await withAttackedClient(strict) { client, peer in
            try await client { client in
                if case .reset(_, code: 3) = attack.outcome { client.readLimit = 0 }
                client.open()
            }
            try await peer.event("headers")
            for command in attack.commands { try peer.send(command) }
            switch attack.outcome {
            case .cutOff(let counter):
                try await client.until("the attacker is cut off") { $0.log.isClosed }
                let (code, count) = try await client {
                    ($0.log.failure?.code, $0.connection.counters[keyPath: counter])
                }
                #expect(code == .limit)
                #expect(count > 20)
                #expect(try await peer.event("goaway") { $0["error_code"] != 0 }["error_code"] == 11)
            case .closed:
                try await client.until("the connection is closed") { $0.log.isClosed }
                let code = try await client { $0.log.failure?.code }
                #expect(code == .protocolViolation)
            case .reset(let stream, let code):
                #expect(try await peer.event("reset") { $0["stream_id"] == stream }["error_code"] == code)
                try await client.until("the stream fails") {
                    $0.failures.count == 1 || $0.streams.first?.failed == true
                }
                try await otherStream(client, peer)
            case .survived:
                try peer.send("answer 1")
                try await client.until("the stream opens") { $0.streams.count == 1 }
                try await otherStream(client, peer)
            }
        }
    }

    private func otherStream(_ client: OnLoop<AttackedClient>, _ peer: FramePeer) async throws {
        let count = try await client { client in
            client.readLimit = .max
            client.open()
            return client.streams.count
        }
        try await peer.event("headers") { $0["stream_id"] == 3 }
        try peer.send("answer 3", "flood 1 0:3:1:6161")
        try await client.until("another stream is served") { $0.streams.count > count && $0.streams[count].readEnded }
        let received = try await client { $0.streams[count].receivedCount }
        #expect(received == 2)
    }
}
