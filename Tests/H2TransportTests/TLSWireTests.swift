import MeshIdentity
import Streams
import Synchronization
import TestPeers
import Testing

@testable import H2Transport

/// Two TLS streams over memory, driven step by step, with a look at what is on the wire between them.
private final class MemoryPair {
    let near: MemoryStream
    let far: MemoryStream
    let client: TLSStream
    let server: TLSStream

    init(_ loop: EventLoop, client: TLSSide, server: TLSSide, observers: (Signals, Signals)) throws {
        (near, far) = MemoryStream.pair(on: loop, capacity: 4 << 20)
        near.isRecording = true
        far.isRecording = true
        self.client = try client.stream(over: near, .client)
        self.server = try server.stream(over: far, .server)
        self.client.observer = observers.0
        self.server.observer = observers.1
    }

    /// The lengths of the records that the client sends during `body`, each without its header of 5 bytes.
    func recordsSent(during body: () throws -> Void) rethrows -> [Int] {
        let start = near.written.count
        try body()
        var lengths: [Int] = []
        var rest = near.written[start...]
        while rest.count >= 5 {
            let length = Int(rest[rest.startIndex + 3]) << 8 | Int(rest[rest.startIndex + 4])
            lengths.append(length)
            rest = rest.dropFirst(5 + length)
        }
        return lengths
    }

    func leave() {
        client.reset(StreamError(.closed, "test over"))
        server.reset(StreamError(.closed, "test over"))
    }
}

/// A pair on its loop, for an async test.
private struct Wire: Sendable {
    let pair: LoopBound<MemoryPair>
    let atClient = Signals()
    let atServer = Signals()

    init(_ loop: EventLoop, client: TLSSide, server: TLSSide) async throws {
        let observers = (atClient, atServer)
        pair = try await loop.execute {
            LoopBound(try MemoryPair(loop, client: client, server: server, observers: observers), on: loop)
        }
    }

    /// Runs `body` on the loop.
    @discardableResult
    func step<Result: Sendable>(_ body: @escaping @Sendable (MemoryPair) throws -> Result) async throws -> Result {
        try await pair.loop.execute { [pair] in try pair.withValue(body) }
    }

    func startHandshakes() async throws {
        try await step { pair in
            pair.client.startHandshake { _ in }
            pair.server.startHandshake { _ in }
        }
    }
}

@Suite(.timeLimit(.minutes(10)))
struct TLSWireTests {
    private func withPair(
        client: TLSSide = .client,
        server: TLSSide = .server,
        connect: Bool = true,
        _ body: (Wire) async throws -> Void
    ) async throws {
        try await withLoop { loop in
            let wire = try await Wire(loop, client: client, server: server)
            if connect {
                try await wire.startHandshakes()
                try await eventually("connected") {
                    try await wire.step { $0.client.peer != nil && $0.server.peer != nil }
                }
            }
            try await body(wire)
            try await wire.step { $0.leave() }
            try await eventually("all buffers are back") { try await loop.execute { loop.buffers.buffersInUse == 0 } }
        }
    }

    // MARK: Records

    /// The main caller's batch: 256 KiB in one piece become 16 full records in one write of the lower stream.
    @Test func aBatchIsFullRecordsInOneWrite() async throws {
        try await withPair { wire in
            try await wire.step { pair in
                let writes = pair.near.writes.count
                let records = pair.recordsSent {
                    #expect(
                        pair.client.writeNext(of: Endpoint.pattern, at: 0, limit: 256 << 10, pieces: 1)
                            == .bytes(256 << 10)
                    )
                }
                // The content type and the tag are 17 bytes (RFC 8446 §5.2).
                #expect(records == Array(repeating: 16_384 + 17, count: 16))
                #expect(pair.near.writes.count == writes + 1)
                #expect(pair.near.loop.buffers.buffersInUse == 0)
            }
        }
    }

    /// Small vectors share records; a large one among them is not cut into runts.
    @Test func smallVectorsAreGathered() async throws {
        try await withPair { wire in
            try await wire.step { pair in
                let writes = pair.near.writes.count
                let records = pair.recordsSent {
                    #expect(
                        pair.client.writeNext(of: Endpoint.pattern, at: 0, limit: 100_000, pieces: 1000)
                            == .bytes(100_000)
                    )
                }
                #expect(records == Array(repeating: 16_401, count: 6) + [100_000 - 6 * 16_384 + 17])
                #expect(pair.near.writes.count == writes + 1)
                let frames = pair.recordsSent {
                    // Header and payload of four 64 KiB frames, less a header each.
                    #expect(
                        pair.client.writeNext(of: Endpoint.pattern, at: 0, limit: 200_000, pieces: 7) == .bytes(200_000)
                    )
                }
                #expect(frames == Array(repeating: 16_401, count: 12) + [200_000 - 12 * 16_384 + 17])
            }
        }
    }

    /// The sending key is replaced when it has sealed as many records as it may: one more record, of 5 bytes.
    @Test func aKeyUpdateIsSent() async throws {
        try await withPair(client: .client.with { $0.recordsPerKey = 2 }) { wire in
            try await wire.step { pair in
                var records: [Int] = []
                for _ in 0..<5 { records += pair.recordsSent { #expect(pair.client.say("hello") == .bytes(5)) } }
                #expect(records.filter { $0 == 5 + 17 }.count == 5 + 2, "\(records)")
            }
            try await eventually("all of it arrives") {
                try await wire.step { $0.server.hear().text } == "hellohellohellohellohello"
            }
        }
    }

    /// A record that is read in small pieces is there to the last byte, though nothing more arrives.
    @Test func aRecordIsReadInPieces() async throws {
        try await withPair { wire in
            try await wire.step { pair in
                #expect(pair.client.writeNext(of: Endpoint.pattern, at: 0, limit: 10_000, pieces: 1) == .bytes(10_000))
                var piece = [UInt8](repeating: 0, count: 1000)
                for index in 0..<10 {
                    #expect(piece.withUnsafeMutableBytes { pair.server.read(into: $0) } == .bytes(1000))
                    #expect(piece[...] == Endpoint.pattern[(index * 1000)..<((index + 1) * 1000)])
                }
                #expect(piece.withUnsafeMutableBytes { pair.server.read(into: $0) } == .wouldBlock)
            }
        }
    }

    // MARK: ClientHello

    @Test(arguments: [nil, "gateway.example"])
    func serverNameIsSentOnlyWhereNamed(name: String?) async throws {
        try await withPair(client: .client.with { $0.serverName = name }) { wire in
            let hello = try await wire.step { $0.near.written }
            let extensions = try #require(ClientHello(hello)).extensions
            #expect(extensions.keys.contains(0) == (name != nil))
            #expect(extensions[16].map { Array($0.suffix(3)) } == [2] + Array("h2".utf8))
            // TLS 1.3 and nothing else; no session tickets.
            #expect(extensions[43] == [2, 3, 4])
            #expect(!extensions.keys.contains(35))
        }
    }

    // MARK: Back-pressure

    @Test func aPeerThatDoesNotReadHoldsTheWriterBack() async throws {
        try await withPair { wire in
            try await wire.step { pair in
                pair.near.isStuck = true
                #expect(
                    pair.client.writeNext(of: Endpoint.pattern, at: 0, limit: 900_000, pieces: 1) == .bytes(256 << 10)
                )
                #expect(pair.client.say("more") == .wouldBlock)
                #expect(pair.near.loop.buffers.buffersInUse == 2)
                pair.near.isStuck = false
            }
            try await eventually("writable again") { wire.atClient.writable.load(ordering: .relaxed) == 1 }
            try await wire.step { pair in
                #expect(pair.near.loop.buffers.buffersInUse == 0)
                #expect(pair.client.say("more") == .bytes(4))
            }
        }
    }

    @Test func earlyReadsAndWritesAreAnsweredAfterTheHandshake() async throws {
        try await withPair(connect: false) { wire in
            try await wire.step { pair in
                #expect(pair.client.say("early") == .wouldBlock)
                #expect(pair.client.hear().result == .wouldBlock)
            }
            try await wire.startHandshakes()
            try await eventually("told") {
                wire.atClient.writable.load(ordering: .relaxed) == 1
                    && wire.atClient.readable.load(ordering: .relaxed) == 1
            }
        }
    }

    // MARK: OpenSSL's buffers

    /// A record of which only a part has come stays whole when its buffers are to be freed, wherever it is cut.
    @Test func aRecordInPartKeepsItsBuffers() async throws {
        try await withPair { wire in
            try await wire.step { pair in
                let engine = pair.server.engine
                func take(_ bytes: ArraySlice<UInt8>) -> (TLSEngine.Read, String) {
                    engine.receive { room in
                        bytes.withUnsafeBytes { room.copyMemory(from: $0) }
                        return (bytes.count, ())
                    }
                    var plain = [UInt8](repeating: 0, count: 100)
                    let result = plain.withUnsafeMutableBytes { engine.read(into: $0) }
                    guard case .bytes(let count) = result else { return (result, "") }
                    return (result, String(decoding: plain[..<count], as: UTF8.self))
                }
                // The header has five bytes, the record 27.
                for cut in 1..<27 {
                    let start = pair.near.written.count
                    #expect(pair.client.say("hello") == .bytes(5))
                    let record = pair.near.written[start...]
                    try #require(record.count == 27)
                    guard case .needsInput = take(record.prefix(cut)).0 else {
                        Issue.record("\(cut) bytes are no record")
                        return
                    }
                    engine.releaseRecordBuffers()
                    #expect(take(record.dropFirst(cut)).1 == "hello", "after \(cut) bytes")
                    engine.releaseRecordBuffers()
                }
            }
        }
    }

    /// A stream that is at rest waits for nothing, and goes on as if it had never rested.
    @Test func restTakesTheBuffersBack() async throws {
        try await withPair { wire in
            for _ in 0..<2 {
                try await wire.step { pair in
                    #expect(pair.client.say("hello") == .bytes(5))
                    #expect(pair.client.timer != nil)
                }
                try await eventually("it arrives") {
                    try await wire.step { pair in
                        guard pair.server.hear().text == "hello" else { return false }
                        #expect(pair.server.timer != nil)
                        return true
                    }
                }
                try await eventually("both rest") {
                    try await wire.step { $0.client.timer == nil && $0.server.timer == nil }
                }
            }
        }
    }

    // MARK: Refusal

    /// The one who refuses keeps the transport open until the other has had time to read why: a socket closed over
    /// unread bytes would send a RST, which may overtake the alert.
    @Test func aRefusalWaitsForTheOtherToLeave() async throws {
        var options = TLSContext.Options.defaults(for: .server)
        options.refusalTimeout = .seconds(60)
        let server = TLSSide.server.with { [options] in $0.options = options }
        try await withPair(client: .client.with { $0.credential = .rogue }, server: server, connect: false) { wire in
            try await wire.startHandshakes()
            try await eventually("refused") {
                try await wire.step { $0.server.failure != nil && $0.client.peer != nil }
            }
            try await wire.step { pair in
                pair.server.close()
                #expect(pair.client.writeNext(of: Endpoint.pattern, at: 0, limit: 50_000, pieces: 1) == .bytes(50_000))
                #expect(pair.client.hear().result == .failed)
                #expect(pair.client.failure?.message.contains("unknown_ca") == true)
                #expect(!pair.far.isClosed)
                #expect(pair.near.wasReset)
            }
            try await eventually("left") { try await wire.step { $0.far.isClosed } }
        }
    }

    // MARK: Truncation, garbage, time

    @Test func anEndWithoutCloseNotifyIsTruncation() async throws {
        try await withPair { wire in
            try await wire.step { pair in
                #expect(pair.client.say("almost everything") == .bytes(17))
                pair.near.endAbruptly()
            }
            try await wire.step { pair in
                #expect(pair.server.hear().text == "almost everything")
                #expect(pair.server.hear().result == .failed)
                #expect(pair.server.failure?.code == .truncated)
                #expect(
                    pair.server.failure?.message.contains("without a TLS close_notify: bytes may be missing") == true
                )
            }
        }
    }

    @Test func alteredBytesAreNoticedOnBothSides() async throws {
        try await withPair { wire in
            try await wire.step { pair in
                // A record that was never sealed.
                let forged: [UInt8] = [23, 3, 3, 0, 32] + Array(repeating: 7, count: 32)
                forged.withUnsafeBytes { #expect(pair.near.write($0) == .bytes(37)) }
                #expect(pair.server.hear().result == .failed)
                #expect(pair.server.failure?.code == .protocolViolation)
                #expect(pair.server.failure?.message.contains("were altered on the way") == true)
                #expect(pair.client.hear().result == .failed)
                #expect(pair.client.failure?.message.contains("bad_record_mac") == true)
            }
        }
    }

    @Test(arguments: [
        ("HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak TLS", StreamError.Code.protocolViolation),
        ("SSH-2.0-OpenSSH_9.2p1\r\n", "does not speak TLS", .protocolViolation),
        ("", "closed the connection during the TLS handshake", .reset),
    ])
    func aServerThatSpeaksSomethingElse(greeting: String, reason: String, code: StreamError.Code) async throws {
        let result = try await handshakeWithout { far in
            if greeting.isEmpty { far.finish() } else { _ = far.say(greeting) }
        }
        let error = try #require(throws: StreamError.self) { try result.get() }
        #expect(error.code == code)
        #expect(error.message.contains(reason), "\(error.message)")
    }

    @Test func aSilentPeerIsGivenUp() async throws {
        let result = try await handshakeWithout(timeout: .milliseconds(30)) { _ in }
        let error = try #require(throws: StreamError.self) { try result.get() }
        #expect(error.code == .timedOut)
        #expect(error.message.contains("no TLS handshake with the memory peer within 0.03 seconds"))
    }

    /// Runs a client's handshake against something that is not TLS.
    private func handshakeWithout(
        timeout: Duration = .seconds(10),
        _ answer: @escaping @Sendable (MemoryStream) -> Void
    ) async throws -> Result<TLSPeer, StreamError> {
        try await withLoop { loop in
            let (near, far) = try await loop.execute {
                let (near, far) = MemoryStream.pair(on: loop)
                return (LoopBound(near, on: loop), LoopBound(far, on: loop))
            }
            let result: Result<TLSPeer, StreamError> = try await withCheckedThrowingContinuation { continuation in
                loop.submit {
                    do {
                        var options = TLSContext.Options.defaults(for: .client)
                        options.handshakeTimeout = timeout
                        let side = TLSSide.client.with { $0.options = options }
                        let stream = try near.withValue { try side.stream(over: $0, .client) }
                        stream.startHandshake { result in
                            stream.close()
                            continuation.resume(returning: result)
                        }
                        far.withValue { answer($0) }
                    } catch {
                        continuation.resume(throwing: error)
                    }
                }
            }
            try await loop.execute { far.withValue { $0.finish() } }
            try await eventually("left") {
                try await loop.execute { near.withValue { $0.isClosed } && loop.buffers.buffersInUse == 0 }
            }
            return result
        }
    }

    // MARK: Ends

    @Test func resetReachesTheOtherSideAsReset() async throws {
        try await withPair { wire in
            try await wire.step { $0.client.reset(StreamError(.denied, "policy")) }
            try await eventually("told") { wire.atServer.failed.load(ordering: .relaxed) == 1 }
            try await wire.step { pair in
                #expect(pair.near.wasReset)
                #expect(pair.server.failure?.code == .reset)
                #expect(pair.server.hear().result == .failed)
                #expect(pair.client.failure == StreamError(.denied, "policy"))
            }
            #expect(wire.atClient.failed.load(ordering: .relaxed) == 0)
        }
    }

    @Test func closeBeforeTheEndIsAReset() async throws {
        try await withPair { wire in
            try await wire.step { pair in
                pair.client.close()
                pair.client.close()
                #expect(pair.near.wasReset)
                #expect(pair.client.failure?.code == .closed)
            }
        }
    }

    /// What was accepted before finish() arrives, though the stream was closed long before its peer read.
    @Test func closeAfterFinishDeliversEverything() async throws {
        try await withPair { wire in
            try await wire.step { pair in
                pair.near.isStuck = true
                #expect(
                    pair.client.writeNext(of: Endpoint.pattern, at: 0, limit: 200_000, pieces: 1) == .bytes(200_000)
                )
                pair.client.finish()
                pair.client.close()
                #expect(!pair.near.wasReset)
                #expect(!pair.near.isClosed)
                #expect(pair.server.hear().result == .wouldBlock)
                pair.near.isStuck = false
            }
            try await eventually("closed") { try await wire.step { $0.near.isClosed } }
            try await wire.step { pair in
                var received = 0
                while case (_, .bytes(let count)) = pair.server.hear() { received += count }
                #expect(received == 200_000)
                #expect(pair.server.hear().result == .end)
                #expect(pair.server.failure == nil)
            }
        }
    }

    @Test func closeGivesUpOnAPeerThatNeverReads() async throws {
        var options = TLSContext.Options.defaults(for: .client)
        options.closeTimeout = .milliseconds(30)
        try await withPair(client: .client.with { [options] in $0.options = options }) { wire in
            try await wire.step { pair in
                pair.near.isStuck = true
                #expect(pair.client.say("never read") == .bytes(10))
                pair.client.finish()
                pair.client.close()
            }
            try await eventually("reset") { try await wire.step { $0.near.wasReset } }
        }
    }

    @Test func writingAfterFinishFails() async throws {
        try await withPair { wire in
            try await wire.step { pair in
                pair.client.finish()
                #expect(pair.client.say("more") == .failed)
                #expect(pair.client.failure?.code == .closed)
            }
        }
    }

    /// The handshake is answered once, whatever happens to the stream before the answer is out.
    @Test func closingDuringTheHandshakeAnswersIt() async throws {
        try await withLoop { loop in
            let error: StreamError? = try await withCheckedThrowingContinuation { continuation in
                loop.submit {
                    do {
                        let (near, _) = MemoryStream.pair(on: loop)
                        let stream = try TLSSide.client.stream(over: near, .client)
                        stream.startHandshake { result in
                            if case .failure(let error) = result {
                                continuation.resume(returning: error)
                            } else {
                                continuation.resume(returning: nil)
                            }
                        }
                        stream.close()
                    } catch {
                        continuation.resume(throwing: error)
                    }
                }
            }
            #expect(
                error?.code == .closed || error?.code == .system || error?.code == .reset,
                "\(String(describing: error))"
            )
        }
    }
}

/// The extensions of a ClientHello (RFC 8446 §4.1.2), by number.
private struct ClientHello {
    var extensions: [Int: [UInt8]] = [:]

    init?(_ record: [UInt8]) {
        guard record.count > 9, record[0] == 22, record[5] == 1 else { return nil }
        var rest = record[9...].dropFirst(2 + 32)
        func number(_ bytes: Int) -> Int {
            defer { rest = rest.dropFirst(bytes) }
            return rest.prefix(bytes).reduce(0) { $0 << 8 | Int($1) }
        }
        // Session ID, cipher suites, compression methods.
        for lengthSize in [1, 2, 1] {
            let length = number(lengthSize)
            rest = rest.dropFirst(length)
        }
        let length = number(2)
        rest = rest.prefix(length)
        while rest.count >= 4 {
            let kind = number(2)
            let length = number(2)
            extensions[kind] = Array(rest.prefix(length))
            rest = rest.dropFirst(length)
        }
    }
}
