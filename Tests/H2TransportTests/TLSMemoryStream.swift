import CLinux

@testable import Streams

/// A test double: one end of a pair of byte streams in memory, as well-behaved or as hostile as the contract allows.
final class MemoryStream: ByteStream, TurnTask {
    /// How a hostile end behaves. Everything is drawn from one seed, so a failure repeats.
    struct Temper: Sendable {
        var seed: UInt64
        /// A read or write moves 1 to this many bytes.
        var largestTransfer: Int
        /// In so many of 100 calls it would block for no reason.
        var blockingPercent: UInt64
    }

    /// The size of each write that was accepted.
    private(set) var writes: [Int] = []
    /// Everything that was written, while `isRecording`.
    private(set) var written: [UInt8] = []
    var isRecording = false
    /// Accepts no bytes, as a peer that does not read.
    var isStuck = false {
        didSet { if !isStuck && wantsWrite { schedule() } }
    }
    private(set) var isClosed = false
    private(set) var wasReset = false

    private weak var other: MemoryStream?
    private var inbox: [UInt8] = []
    private var consumed = 0
    private var inboxEnded = false
    private var finished = false
    private var wantsRead = false
    private var wantsWrite = false
    private var owesFailure = false
    private var isScheduled = false
    private let temper: Temper?
    private var random: UInt64
    private let capacity: Int

    init(loop: EventLoop, temper: Temper?, capacity: Int = 512 << 10) {
        self.temper = temper
        self.capacity = capacity
        random = temper?.seed ?? 1
        super.init(loop: loop)
    }

    static func pair(
        on loop: EventLoop,
        temper: Temper? = nil,
        capacity: Int = 512 << 10
    ) -> (MemoryStream, MemoryStream) {
        var second = temper
        second?.seed &+= 0x5_DEEC_E66D
        let streams = (
            MemoryStream(loop: loop, temper: temper, capacity: capacity),
            MemoryStream(loop: loop, temper: second, capacity: capacity)
        )
        streams.0.other = streams.1
        streams.1.other = streams.0
        return streams
    }

    override var peerDescription: String { "the memory peer" }

    override func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        precondition(!buffer.isEmpty)
        guard failure == nil else { return .failed }
        guard !isClosed else { return .failed }
        if blocksAtWhim() {
            wantsRead = true
            schedule()
            return .wouldBlock
        }
        let available = inbox.count - consumed
        guard available > 0 else {
            if inboxEnded { return .end }
            wantsRead = true
            return .wouldBlock
        }
        let count = min(available, buffer.count, transferLimit())
        inbox.withUnsafeBytes {
            buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[consumed..<(consumed + count)]))
        }
        consumed += count
        if consumed == inbox.count {
            inbox.removeAll(keepingCapacity: true)
            consumed = 0
        }
        if let other, other.wantsWrite { other.schedule() }
        return .bytes(count)
    }

    override func write(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        guard failure == nil, !finished, !isClosed else { return .failed }
        if isStuck {
            wantsWrite = true
            return .wouldBlock
        }
        if blocksAtWhim() {
            wantsWrite = true
            schedule()
            return .wouldBlock
        }
        guard let other else { return .failed }
        var room = min(capacity - (other.inbox.count - other.consumed), transferLimit())
        let offered = vectors.reduce(0) { $0 + $1.iov_len }
        var accepted = 0
        for vector in vectors where room > 0 {
            let bytes = UnsafeRawBufferPointer(start: vector.iov_base, count: min(vector.iov_len, room))
            other.inbox.append(contentsOf: bytes)
            if isRecording { written.append(contentsOf: bytes) }
            accepted += bytes.count
            room -= bytes.count
        }
        if accepted < offered {
            wantsWrite = true
            if capacity > other.inbox.count - other.consumed { schedule() }
        }
        guard accepted > 0 else { return .wouldBlock }
        writes.append(accepted)
        other.becameReadable()
        return .bytes(accepted)
    }

    override func finish() {
        guard !finished else { return }
        finished = true
        other?.inboxEnded = true
        other?.becameReadable()
    }

    override func reset(_ reason: StreamError) {
        guard !isClosed else { return }
        isClosed = true
        wasReset = true
        fail(reason)
        if let other, !other.isClosed {
            other.fail(StreamError(.reset, "the memory peer reset the stream"))
            other.owesFailure = true
            other.schedule()
        }
    }

    override func close() {
        guard finished || failure != nil else { return reset(StreamError(.closed, "closed")) }
        isClosed = true
        fail(StreamError(.closed, "closed"))
    }

    /// Ends the other side's input without any farewell: a transport that died quietly.
    func endAbruptly() {
        finish()
    }

    func runTurn() {
        isScheduled = false
        if owesFailure {
            owesFailure = false
            observer?.streamFailed(self)
            return
        }
        if wantsRead {
            wantsRead = false
            observer?.streamReadable(self)
        }
        if wantsWrite && !isStuck {
            wantsWrite = false
            observer?.streamWritable(self)
        }
    }

    /// An edge, only where a read has found nothing: whoever stops reading early must not count on another.
    private func becameReadable() {
        if wantsRead { schedule() }
    }

    private func schedule() {
        guard !isScheduled, !isClosed || owesFailure else { return }
        isScheduled = true
        loop.nextTurn(self)
    }

    private func blocksAtWhim() -> Bool {
        guard let temper else { return false }
        return next() % 100 < temper.blockingPercent
    }

    private func transferLimit() -> Int {
        guard let temper else { return .max }
        return Int(next() % UInt64(temper.largestTransfer)) + 1
    }

    private func next() -> UInt64 {
        random ^= random << 13
        random ^= random >> 7
        random ^= random << 17
        return random
    }
}
