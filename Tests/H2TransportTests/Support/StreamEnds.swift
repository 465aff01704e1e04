import Streams
import TestPeers

/// Drives one stream from its observer: writes what it is given, reads what comes. Confined to its loop.
final class StreamEnd: StreamObserver {
    let stream: ByteStream
    /// Reads only up to here; raise it and call ``resume()`` to go on.
    var readLimit = Int.max
    /// Bytes asked for with one read.
    var readSize = 65536

    private(set) var received: [UInt8] = []
    private(set) var receivedCount = 0
    private(set) var readEnded = false
    private(set) var failed = false
    private(set) var written = 0
    private(set) var writeFailed = false
    private(set) var writeBlocked = false
    private let keepsBytes: Bool
    private var digest: RunningDigest?

    private var pattern: Pattern?
    private var toWrite = 0
    private var chunk: [UInt8] = []
    private var chunkOffset = 0
    private var finishes = false

    init(_ stream: ByteStream, keepsBytes: Bool = true, readLimit: Int = .max) {
        self.stream = stream
        self.keepsBytes = keepsBytes
        self.readLimit = readLimit
        digest = RunningDigest()
        stream.observer = self
        read()
    }

    /// Writes `count` bytes of a pattern, then finishes if asked to.
    func send(_ count: Int, seed: UInt64 = 1, finish: Bool = true) {
        pattern = Pattern(seed: seed)
        toWrite = count
        finishes = finish
        write()
    }

    func send(_ bytes: [UInt8], finish: Bool = false) {
        chunk = Array(chunk[chunkOffset...]) + bytes
        chunkOffset = 0
        finishes = finish
        write()
    }

    func send(_ text: String, finish: Bool = false) { send(Array(text.utf8), finish: finish) }

    func resume() { read() }

    var text: String { String(decoding: received, as: UTF8.self) }

    /// SHA-256 of what was read; takes the count with it, once.
    func takeChecksum() -> String {
        defer { digest = nil }
        return digest?.finish() ?? ""
    }

    func streamReadable(_ stream: ByteStream) { read() }
    func streamWritable(_ stream: ByteStream) {
        writeBlocked = false
        write()
    }
    func streamFailed(_ stream: ByteStream) { failed = true }

    private func read() {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: readSize, alignment: 16)
        defer { buffer.deallocate() }
        while !readEnded && !failed {
            let room = min(readSize, readLimit - receivedCount)
            guard room > 0 else { return }
            switch stream.read(into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<room])) {
            case .bytes(let count):
                let bytes = UnsafeRawBufferPointer(rebasing: buffer[..<count])
                receivedCount += count
                digest?.update(bytes)
                if keepsBytes { received.append(contentsOf: bytes) }
            case .wouldBlock: return
            case .end: readEnded = true
            case .failed: failed = true
            }
        }
    }

    private func write() {
        while true {
            if chunkOffset == chunk.count {
                guard toWrite > 0 else { break }
                let size = min(toWrite, 65536)
                chunk = [UInt8](unsafeUninitializedCapacity: size) { buffer, initialized in
                    pattern?.fill(UnsafeMutableRawBufferPointer(buffer))
                    initialized = size
                }
                chunkOffset = 0
                toWrite -= size
            }
            let result = chunk[chunkOffset...].withUnsafeBytes { stream.write($0) }
            switch result {
            case .bytes(let count):
                chunkOffset += count
                written += count
                if chunkOffset < chunk.count {
                    writeBlocked = true
                    return
                }
            case .wouldBlock:
                writeBlocked = true
                return
            case .failed:
                writeFailed = true
                return
            }
        }
        if finishes {
            finishes = false
            stream.finish()
        }
    }
}

/// A checksum that a class can hold.
private final class RunningDigest {
    private var checksum: Checksum?

    init() { checksum = Checksum() }

    func update(_ bytes: UnsafeRawBufferPointer) { checksum?.update(bytes) }

    func finish() -> String {
        guard let checksum = checksum.take() else { return "" }
        return checksum.finish()
    }
}

/// Something confined to an event loop that a test asks about from outside.
struct OnLoop<Value> {
    let loop: EventLoop
    private let bound: LoopBound<Value>

    init(_ loop: EventLoop, _ make: @escaping @Sendable () throws -> Value) async throws {
        self.loop = loop
        bound = try await loop.execute { LoopBound(try make(), on: loop) }
    }

    /// What others have put on the loop.
    init(_ bound: LoopBound<Value>) {
        self.bound = bound
        loop = bound.loop
    }

    /// On the loop only.
    func value<Result>(_ body: (Value) throws -> Result) rethrows -> Result { try bound.withValue(body) }

    func callAsFunction<Result: Sendable>(
        _ body: @escaping @Sendable (Value) throws -> Result
    ) async throws -> Result {
        let bound = bound
        return try await loop.execute { try bound.withValue(body) }
    }

    /// Waits until `condition` holds on the loop.
    func until(
        _ what: String,
        within limit: Duration = .seconds(90),
        _ condition: @escaping @Sendable (Value) -> Bool
    ) async throws {
        try await eventually(what, within: limit) { try await self(condition) }
    }
}

extension OnLoop: Sendable {}

/// Runs `body` with an event loop of its own, checks that every pooled buffer came back, and stops the loop.
func withLoop(_ body: (EventLoop) async throws -> Void) async throws {
    let loop = EventLoop(name: "test")
    do {
        try await body(loop)
        try await eventually("every buffer is back in the pool") {
            try await loop.execute { loop.buffers.buffersInUse == 0 }
        }
    } catch {
        await loop.shutDown()
        throw error
    }
    await loop.shutDown()
}
