import CLinux
import Glibc
import Streams
import TestPeers
import Testing

/// Something a test waited for did not happen in time. The deadline is generous: it only ends what would hang.
struct DeadlinePassed: Error, CustomStringConvertible {
    let description: String
}

/// What a test keeps alive on an event loop while it waits for its outcome.
final class Scenario<Outcome: Sendable> {
    let loop: EventLoop
    private var kept: [AnyObject] = []
    private var completion: ((Result<Outcome, any Error>) -> Void)?
    private var timer: LoopTimer?

    init(loop: EventLoop, deadline: Duration, completion: @escaping (Result<Outcome, any Error>) -> Void) {
        self.loop = loop
        self.completion = completion
        let timer = LoopTimer(on: loop) { [self] in
            end(.failure(DeadlinePassed(description: "no outcome within \(deadline)")))
        }
        self.timer = timer
        timer.schedule(after: deadline)
    }

    @discardableResult
    func keep<Object: AnyObject>(_ object: Object) -> Object {
        kept.append(object)
        return object
    }

    func complete(_ outcome: Outcome) { end(.success(outcome)) }

    func fail(_ error: any Error) { end(.failure(error)) }

    private func end(_ result: Result<Outcome, any Error>) {
        guard let completion else { return }
        self.completion = nil
        timer?.cancel()
        timer = nil
        // What a closure of an observer holds usually holds the observer.
        for case let observer as Observer in kept { observer.forget() }
        kept = []
        completion(result)
    }
}

/// Runs `body` on the loop and waits until it has completed or failed its scenario.
func onLoop<Outcome: Sendable>(
    _ loop: EventLoop,
    deadline: Duration = .seconds(240),
    _ body: @escaping @Sendable (Scenario<Outcome>) throws -> Void
) async throws -> Outcome {
    try await withCheckedThrowingContinuation { continuation in
        loop.submit {
            let scenario = Scenario<Outcome>(loop: loop, deadline: deadline) { continuation.resume(with: $0) }
            do {
                try body(scenario)
            } catch {
                scenario.fail(error)
            }
        }
    }
}

/// Gives `body` an event loop of its own, and then checks that every buffer went back to the pool and every descriptor
/// was closed.
@discardableResult
func withLoop<Outcome>(
    _ name: String = #function,
    sourceLocation: SourceLocation = #_sourceLocation,
    _ body: (EventLoop) async throws -> Outcome
) async throws -> Outcome {
    let loop = EventLoop(name: name)
    let result: Result<Outcome, any Error>
    do {
        result = .success(try await body(loop))
    } catch {
        result = .failure(error)
    }
    if case .success = result {
        let inUse = try await loop.execute { loop.buffers.buffersInUse }
        #expect(inUse == 0, "buffers were not given back", sourceLocation: sourceLocation)
    }
    await loop.shutDown()
    return try result.get()
}

/// The bytes a ``Talker`` sends and expects: a random block over and over, whose length is a prime, so that no loss,
/// repetition or exchange of whole buffers leaves the sequence unchanged.
struct Pattern {
    private let block: [UInt8]
    private var position = 0

    init(seed: UInt64) {
        var random = SplitMix64(state: seed)
        block = (0..<16381).map { _ in UInt8(truncatingIfNeeded: random.next()) }
    }

    /// Calls `body` with the next pieces of the sequence, `count` bytes in all, and where each belongs.
    private mutating func advance(_ count: Int, _ body: (Int, UnsafeRawBufferPointer) -> Void) {
        var done = 0
        while done < count {
            let length = min(count - done, block.count - position)
            block.withUnsafeBytes { body(done, UnsafeRawBufferPointer(rebasing: $0[position..<position + length])) }
            position = (position + length) % block.count
            done += length
        }
    }

    mutating func next(_ count: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        bytes.withUnsafeMutableBytes { fill($0) }
        return bytes
    }

    mutating func fill(_ bytes: UnsafeMutableRawBufferPointer) {
        advance(bytes.count) { offset, piece in
            UnsafeMutableRawBufferPointer(rebasing: bytes[offset..<offset + piece.count]).copyMemory(from: piece)
        }
    }

    /// The index of the first byte that is not the next of the sequence.
    mutating func firstDifference(in bytes: UnsafeRawBufferPointer) -> Int? {
        var first: Int?
        advance(bytes.count) { offset, piece in
            let part = UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + piece.count])
            if first == nil, memcmp(part.baseAddress!, piece.baseAddress!, piece.count) != 0 {
                first = zip(part, piece).enumerated().first { $0.element.0 != $0.element.1 }.map { offset + $0.offset }
            }
        }
        return first
    }
}

/// One end of a test connection: sends `sending` bytes of a pattern and then finishes, reads what comes until the end
/// and checks that it is the pattern of its peer.
final class Talker: StreamObserver {
    struct Outcome: Sendable, Equatable {
        var sent = 0
        var received = 0
        /// The position of the first byte that was not the expected one.
        var firstWrongByte: Int?
        /// The peer ended its direction.
        var sawEnd = false
        var failure: StreamError?
    }

    let stream: ByteStream
    private(set) var outcome = Outcome()
    /// Called once when both directions ended, or when the stream failed.
    var ended: ((Talker) -> Void)?
    /// Reads nothing while this is false.
    var isReading = true
    /// Closes the stream when both directions ended.
    var closesAtEnd = true
    /// Ends its own direction only after the peer's.
    var finishesAfterPeer = false

    private var toSend: Int
    private var pattern: Pattern
    private var expected: Pattern
    private var unsent: [UInt8] = []
    private var finished = false
    private var isOver = false
    private var buffer = [UInt8](repeating: 0, count: 40_000)

    /// - Parameter early: What went another way before: the pattern goes on after it.
    init(
        _ stream: ByteStream,
        sending count: Int,
        after early: Int = 0,
        seed: UInt64,
        expecting peerSeed: UInt64
    ) {
        self.stream = stream
        toSend = count
        var pattern = Pattern(seed: seed)
        if early > 0 { _ = pattern.next(early) }
        self.pattern = pattern
        expected = Pattern(seed: peerSeed)
        stream.observer = self
    }

    func start() {
        send()
        receive()
    }

    /// Reading was off; go on.
    func resume() {
        isReading = true
        receive()
    }

    func streamReadable(_ stream: ByteStream) { receive() }
    func streamWritable(_ stream: ByteStream) { send() }
    func streamFailed(_ stream: ByteStream) { over(stream.failure) }

    func send() {
        while !finished && !isOver {
            if unsent.isEmpty {
                let length = min(toSend, 30_000)
                guard length > 0 else {
                    guard !finishesAfterPeer || outcome.sawEnd else { return }
                    finished = true
                    stream.finish()
                    return endIfDone()
                }
                unsent = [UInt8](unsafeUninitializedCapacity: length) { bytes, count in
                    pattern.fill(UnsafeMutableRawBufferPointer(bytes))
                    count = length
                }
            }
            // Two vectors, so that gathering is exercised too.
            let result = unsent.withUnsafeMutableBytes { bytes -> WriteResult in
                let half = bytes.count / 2
                let vectors = [
                    iovec(iov_base: bytes.baseAddress, iov_len: half),
                    iovec(iov_base: bytes.baseAddress.map { $0 + half }, iov_len: bytes.count - half),
                ]
                return vectors.withUnsafeBufferPointer { stream.write($0) }
            }
            switch result {
            case .bytes(let count):
                unsent.removeFirst(count)
                toSend -= count
                outcome.sent += count
            case .wouldBlock: return
            case .failed: return over(stream.failure)
            }
        }
    }

    private func receive() {
        while isReading && !outcome.sawEnd && !isOver {
            switch buffer.withUnsafeMutableBytes({ stream.read(into: $0) }) {
            case .bytes(let count):
                let difference = buffer.withUnsafeBytes {
                    expected.firstDifference(in: UnsafeRawBufferPointer(rebasing: $0[..<count]))
                }
                if let difference, outcome.firstWrongByte == nil {
                    outcome.firstWrongByte = outcome.received + difference
                }
                outcome.received += count
            case .wouldBlock: return
            case .end:
                outcome.sawEnd = true
                if finishesAfterPeer { send() }
                return endIfDone()
            case .failed: return over(stream.failure)
            }
        }
    }

    private func endIfDone() {
        if finished && outcome.sawEnd { over(nil) }
    }

    private func over(_ failure: StreamError?) {
        guard !isOver else { return }
        isOver = true
        outcome.failure = failure
        if closesAtEnd || failure != nil { stream.close() }
        ended?(self)
    }
}

/// Calls `completion` with every talker's outcome once all have ended.
func awaitAll(_ talkers: [Talker], completion: @escaping ([Talker.Outcome]) -> Void) {
    var left = talkers.count
    for talker in talkers {
        talker.ended = { [talkers] _ in
            left -= 1
            if left == 0 {
                for talker in talkers { talker.ended = nil }
                completion(talkers.map(\.outcome))
            }
        }
    }
}
