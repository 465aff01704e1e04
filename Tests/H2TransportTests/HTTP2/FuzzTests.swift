import Platform
import Streams
import TestPeers
import Testing

@testable import H2Transport

/// The HTTP/2 engine on byte streams that were recorded, then cut or changed.
@Suite struct FuzzTests {
    @Test("a connection that is cut anywhere never ends a stream cleanly that was not whole", arguments: [true, false])
    func truncation(_ isServer: Bool) async throws {
        try await withLoop { loop in
            let recording = try await Recording.make(on: loop)
            let bytes = isServer ? recording.fromClient : recording.fromServer
            var fuzzer = Fuzzer("truncation, \(isServer ? "server" : "client")")
            var count = 0
            var whole = 0
            while fuzzer.goesOn(count, of: 400) {
                count += 1
                let length = count == 1 ? bytes.count : fuzzer.below(bytes.count)
                let cut = Array(bytes[..<length])
                let ends = try await run(isServer, cut, resets: fuzzer.below(3) == 0, seed: fuzzer.next(), on: loop)
                for (path, received) in ends.clean {
                    guard let expected = Recording.payloads[path] else {
                        Issue.record("a stream to \(path)")
                        continue
                    }
                    whole += 1
                    if received != Checksum.of(Pattern.bytes(expected)) {
                        Issue.record("cut at \(length): the stream to \(path) ended as if whole; \(fuzzer.seed)")
                    }
                }
            }
            // The uncut recording at least.
            #expect(whole >= Recording.payloads.count)
        }
    }

    @Test("a changed byte stream: no crash, no hang, bounded memory", arguments: [true, false])
    func mutation(_ isServer: Bool) async throws {
        try await withLoop { loop in
            let recording = try await Recording.make(on: loop)
            let bytes = isServer ? recording.fromClient : recording.fromServer
            // Whole frames, and headers of frames that surprise.
            var dictionary: [[UInt8]] = (0...10).map { [0, 0, 4, $0, 0, 0, 0, 0, 1, 0, 0, 0, 1] }
            dictionary += [
                [0xff, 0xff, 0xff], [0, 0, 0, 0, 1, 0, 0, 0, 1], [0, 0, 0, 4, 1, 0, 0, 0, 0], [0x7f, 0xff, 0xff, 0xff],
            ]
            // The start of the recording, where most frames are, and all of it.
            let corpus = [bytes, Array(bytes.prefix(600)), Array(bytes.prefix(200))]
            var fuzzer = Fuzzer("mutation, \(isServer ? "server" : "client")")
            var count = 0
            while fuzzer.goesOn(count, of: 600) {
                count += 1
                var input = fuzzer.mutate(corpus, dictionary: dictionary)
                if isServer && fuzzer.below(4) > 0 {
                    // Past the preface, or little else would ever be tried.
                    input = Array(bytes[..<24]) + input.dropFirst(24)
                }
                let ends = try await run(isServer, input, resets: fuzzer.below(3) == 0, seed: fuzzer.next(), on: loop)
                if ends.largestHeld > 8 << 20 { Issue.record("input \(count): \(ends.largestHeld) bytes held") }
            }
        }
    }

    /// Feeds a connection, in pieces of any size, and waits for its end.
    private func run(
        _ isServer: Bool,
        _ input: [UInt8],
        resets: Bool,
        seed: UInt64,
        on loop: EventLoop
    ) async throws -> Target.Ends {
        let target = try await OnLoop(loop) {
            try Target(isServer, input, resets: resets, seed: seed, on: loop)
        }
        try await target.until("all was fed, and the connection has ended") { $0.step() }
        let ends = try await target { $0.finish() }
        let buffers = try await loop.execute { loop.buffers.buffersInUse }
        if buffers != 0 { Issue.record("\(buffers) buffers were not given back; seed \(seed)") }
        return ends
    }

    /// What a client and a server of ours said to each other.
    struct Recording: Sendable {
        var fromClient: [UInt8] = []
        var fromServer: [UInt8] = []

        /// Authorities, and how many bytes of the pattern go each way.
        static let payloads = ["10.0.0.1:1": 0, "10.0.0.1:2": 10, "10.0.0.1:3": 70_000, "10.0.0.1:4": 3000]

        static func make(on loop: EventLoop) async throws -> Recording {
            let session = try await OnLoop(loop) { try Session(on: loop) }
            try await session.until("the session is over") { $0.step() }
            return try await session { $0.close() }
        }

        /// Both sides, with a recorder between them. Confined to its loop.
        private final class Session {
            let pair: H2Pair
            private let clientSide: MemoryStream
            private let serverSide: MemoryStream
            private var recording = Recording()
            private var ends: [StreamEnd] = []
            private var expected = 0

            init(on loop: EventLoop) throws {
                let (first, clientSide) = MemoryStream.pair(on: loop, capacity: 1 << 20)
                let (second, serverSide) = MemoryStream.pair(on: loop, capacity: 1 << 20)
                self.clientSide = clientSide
                self.serverSide = serverSide
                // All are asked for at once.
                var client = H2Configuration.defaults
                client.assumedPeerStreams = Recording.payloads.count
                pair = try H2Pair(first, second, client: client)
                pair.serverEvents.onRequest = { [unowned self] pending in
                    let count = Recording.payloads[pending.destination.description] ?? 0
                    guard let stream = pending.accept(headers: ["baggage": "service.name=fuzz"]) else { return }
                    add(stream, count)
                }
                for (authority, count) in Recording.payloads.sorted(by: { $0.key < $1.key }) {
                    pair.client.openStream(ConnectRequest(authority: authority)) { [unowned self] result in
                        if case .success(let stream) = result { add(stream, count) }
                    }
                }
            }

            private func add(_ stream: H2Stream, _ count: Int) {
                ends.append(StreamEnd(stream, keepsBytes: false))
                ends[ends.count - 1].send(count)
            }

            func step() -> Bool {
                Self.pass(clientSide, serverSide, &recording.fromClient)
                Self.pass(serverSide, clientSide, &recording.fromServer)
                return ends.count == 2 * Recording.payloads.count && ends.allSatisfy(\.readEnded)
                    && pair.client.streamCount == 0 && pair.server.streamCount == 0
            }

            func close() -> Recording {
                for end in ends { end.stream.close() }
                pair.client.abort(StreamError(.closed, "recorded"))
                pair.server.abort(StreamError(.closed, "recorded"))
                clientSide.close()
                serverSide.close()
                return recording
            }

            private static func pass(_ from: MemoryStream, _ to: MemoryStream, _ record: inout [UInt8]) {
                withUnsafeTemporaryAllocation(byteCount: 65536, alignment: 1) { buffer in
                    while case .bytes(let count) = from.read(into: buffer) {
                        let bytes = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(buffer)[..<count])
                        record += bytes
                        _ = to.write(bytes)
                    }
                }
            }
        }
    }

    /// A connection under test, and what feeds it. Confined to its loop.
    private final class Target {
        struct Ends: Sendable {
            /// Streams that ended cleanly, by authority, with the checksum of what was read.
            var clean: [(String, String)] = []
            var largestHeld = 0
        }

        private let connection: H2Connection
        private let log = ConnectionLog()
        private let peer: MemoryStream
        private var ends: [(String, StreamEnd)] = []
        private var input: ArraySlice<UInt8>
        private let resets: Bool
        private var fuzzer: Pieces
        private var largestHeld = 0
        private var isFed = false

        init(_ isServer: Bool, _ input: [UInt8], resets: Bool, seed: UInt64, on loop: EventLoop) throws {
            let (first, second) = MemoryStream.pair(on: loop, capacity: 1 << 20)
            peer = second
            self.input = input[...]
            self.resets = resets
            fuzzer = Pieces(state: seed)
            var configuration = H2Configuration.defaults
            configuration.assumedPeerStreams = Recording.payloads.count
            configuration.limits.memory = 64 << 20
            configuration.memory = H2MemoryBudget(limit: 1 << 30)
            connection = try H2Connection(
                over: first,
                role: isServer ? .server : .client,
                configuration: configuration,
                delegate: log
            )
            log.onRequest = { [unowned self] pending in
                let authority = pending.destination.description
                if let stream = pending.accept() { add(stream, authority) }
            }
            guard !isServer else { return }
            for authority in Recording.payloads.keys.sorted() {
                connection.openStream(ConnectRequest(authority: authority)) { [unowned self] result in
                    if case .success(let stream) = result { add(stream, authority) }
                }
            }
        }

        private func add(_ stream: H2Stream, _ authority: String) {
            let end = StreamEnd(stream, keepsBytes: false)
            ends.append((authority, end))
            // A truncation is a matter of what is received; what is sent keeps the engine busy.
            end.send(100)
        }

        /// Feeds a piece; true when the connection has ended.
        func step() -> Bool {
            largestHeld = max(largestHeld, connection.heldBytes)
            withUnsafeTemporaryAllocation(byteCount: 65536, alignment: 1) { buffer in
                while case .bytes = peer.read(into: buffer) {}
            }
            // Several pieces a turn, of one byte to everything.
            for _ in 0..<8 where !input.isEmpty {
                let piece = input.prefix(fuzzer.next() % 3 == 0 ? Int(fuzzer.next() % 32) + 1 : input.count)
                guard case .bytes(let count) = piece.withUnsafeBytes({ peer.write($0) }) else { break }
                input = input.dropFirst(count)
                if log.isClosed { break }
            }
            if log.isClosed { return true }
            if input.isEmpty && !isFed {
                isFed = true
                if resets { peer.reset(StreamError(.reset, "cut")) } else { peer.finish() }
            }
            return false
        }

        func finish() -> Ends {
            var result = Ends(largestHeld: largestHeld)
            for (authority, end) in ends where end.readEnded { result.clean.append((authority, end.takeChecksum())) }
            for (_, end) in ends { end.stream.close() }
            peer.close()
            return result
        }

        private struct Pieces {
            var state: UInt64
            mutating func next() -> UInt64 {
                state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                return state >> 33
            }
        }
    }
}
