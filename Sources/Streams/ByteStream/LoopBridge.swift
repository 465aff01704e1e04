package import CLinux

/// One end of a byte stream between two event loops of this process: what is written to the one is read from the other.
///
/// ```
///   loop A: near ──write──→ lane, 256 KiB at most ──read──→ far :loop B
///           near ←──read─── lane, 256 KiB at most ←──write── far
/// ```
///
/// A pair of sockets would do the same, but for one thing: the kernel tells the reader of a Unix socket of no reset,
/// and a stream that lost bytes must not end cleanly. Bytes are copied once into a lane and once out of it; the other
/// loop is woken once for whatever was written since it last looked.
///
/// Each end is confined to its own loop. Whoever has it closes or resets it.
package final class LoopBridge: ByteStream {
    private enum Side: Int { case near, far }

    /// What the end that is reset first has to say beside its reason. Where streams outlive what carries them, the loss
    /// of a carrier is no reset of the stream.
    package enum Farewell: Sendable {
        /// Nothing.
        case reset
        /// Whoever has it goes on elsewhere.
        case letGo
        /// What it was joined with was reset by whoever is at its other end.
        case resetByPeer
    }

    /// One direction.
    private struct Lane: Sendable {
        var bytes: [UInt8] = []
        /// Where the first byte is that was not read.
        var start = 0
        /// The writer has finished.
        var isEnded = false
        /// The reader has let go, and the other direction goes on.
        var isAbandoned = false
        var readerWaits = true
        var writerWaits = false

        var count: Int { bytes.count - start }

        mutating func drop() {
            bytes = []
            start = 0
        }
    }

    private struct State: Sendable {
        /// By the side that writes.
        var lanes = [Lane(), Lane()]
        /// Why a side can neither read nor write any more: the other one was reset.
        var failures: [StreamError?] = [nil, nil]
        var farewell: (Farewell, of: Side)?
        /// Who is to be woken; nil: it has let go.
        var ends: [LoopBound<LoopBridge>?] = [nil, nil]
    }

    private let state: Lock<State>
    private let side: Side
    private let description: String
    /// What the stream at the other end can tell of itself, for whoever has this one.
    package var facts: (any Sendable)?
    /// Told once, when whoever has this end has let go of it.
    package var onRelease: (() -> Void)?
    private var hasFinished = false
    private var hasReadEnd = false
    private var isReleased = false

    /// What a lane holds at most.
    static let capacity = 256 << 10

    private var own: Int { side.rawValue }
    private var other: Int { 1 - side.rawValue }

    /// The near end; ``makeFarEnd(on:)`` makes the other one, once.
    package init(on loop: EventLoop, to description: String) {
        state = Lock(State())
        side = .near
        self.description = description
        super.init(loop: loop)
        let bound = LoopBound(self, on: loop)
        state.withLock { $0.ends[Side.near.rawValue] = bound }
    }

    private init(other: LoopBridge, on loop: EventLoop) {
        state = other.state
        side = .far
        description = other.description
        super.init(loop: loop)
        let bound = LoopBound(self, on: loop)
        state.withLock { $0.ends[Side.far.rawValue] = bound }
    }

    /// For whoever runs on `loop`.
    package func makeFarEnd(on loop: EventLoop) -> LoopBound<LoopBridge> {
        precondition(side == .near, "a bridge has two ends")
        return LoopBound(LoopBridge(other: self, on: loop), on: loop)
    }

    package override var peerDescription: String { description }

    // MARK: Reading

    private enum Found {
        case bytes(Int, wakes: LoopBound<LoopBridge>?)
        case nothing
        case end
        case failure(StreamError)
    }

    package override func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        guard !isReleased else { return refuseRead() }
        guard !hasReadEnd else { return .end }
        let found = state.withLock { state -> Found in
            if let failure = state.failures[own] { return .failure(failure) }
            let count = min(state.lanes[other].count, buffer.count)
            guard count > 0 else {
                if state.lanes[other].isEnded { return .end }
                state.lanes[other].readerWaits = true
                return .nothing
            }
            let start = state.lanes[other].start
            state.lanes[other].bytes.withUnsafeBytes {
                buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[start..<(start + count)]))
            }
            state.lanes[other].start += count
            if state.lanes[other].count == 0 {
                let isSmall = state.lanes[other].bytes.count <= 64 << 10
                state.lanes[other].bytes.removeAll(keepingCapacity: isSmall)
                state.lanes[other].start = 0
            }
            // Half of it is free: a wake-up for each read would be one for each chunk.
            guard state.lanes[other].writerWaits, state.lanes[other].count <= Self.capacity / 2 else {
                return .bytes(count, wakes: nil)
            }
            state.lanes[other].writerWaits = false
            return .bytes(count, wakes: state.ends[other])
        }
        switch found {
        case .bytes(let count, let writer):
            if let writer { wake(writer) { $0.hasRoom() } }
            return .bytes(count)
        case .nothing: return .wouldBlock
        case .end:
            hasReadEnd = true
            return .end
        case .failure(let error): return refuseRead(error)
        }
    }

    // MARK: Writing

    private enum Taken {
        case bytes(Int, wakes: LoopBound<LoopBridge>?)
        case full
        case failure(StreamError)
    }

    package override func write(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        guard !isReleased, !hasFinished else { return refuseWrite() }
        let offered = vectors.reduce(0) { $0 + $1.iov_len }
        let taken = state.withLock { state -> Taken in
            if let failure = state.failures[own] { return .failure(failure) }
            guard !state.lanes[own].isAbandoned else {
                return .failure(StreamError(.closed, "\(description) reads no more"))
            }
            guard offered > 0 else { return .bytes(0, wakes: nil) }
            var room = Self.capacity - state.lanes[own].count
            guard room > 0 else {
                state.lanes[own].writerWaits = true
                return .full
            }
            // What was read is not kept in front of what is to be read for ever.
            if state.lanes[own].start >= Self.capacity / 4 {
                state.lanes[own].bytes.removeFirst(state.lanes[own].start)
                state.lanes[own].start = 0
            }
            let accepted = min(room, offered)
            for vector in vectors where room > 0 {
                let count = min(room, vector.iov_len)
                state.lanes[own].bytes += UnsafeRawBufferPointer(start: vector.iov_base, count: count)
                room -= count
            }
            if accepted < offered { state.lanes[own].writerWaits = true }
            guard state.lanes[own].readerWaits else { return .bytes(accepted, wakes: nil) }
            state.lanes[own].readerWaits = false
            return .bytes(accepted, wakes: state.ends[other])
        }
        switch taken {
        case .bytes(let count, let reader):
            if let reader { wake(reader) { $0.hasBytes() } }
            return .bytes(count)
        case .full: return .wouldBlock
        case .failure(let error): return refuseWrite(error)
        }
    }

    // MARK: Ends

    package override func finish() {
        guard !isReleased, !hasFinished else { return }
        hasFinished = true
        let reader = state.withLock { state in
            state.lanes[own].isEnded = true
            state.lanes[own].readerWaits = false
            return state.ends[other]
        }
        if let reader { wake(reader) { $0.hasBytes() } }
    }

    package override func reset(_ reason: StreamError) { reset(reason, saying: .reset) }

    /// What the other end has said when it was reset; nil: it was not, or not first.
    package var farewell: Farewell? {
        state.withLock { state in state.farewell.flatMap { $0.of == side ? nil : $0.0 } }
    }

    package func reset(_ reason: StreamError, saying farewell: Farewell) {
        guard !isReleased else { return }
        observer = nil
        fail(reason)
        isReleased = true
        tellRelease()
        // `closed` is how a stream says that it reads no more and spoils nothing; this loses bytes.
        let told = StreamError(reason.code == .closed ? .reset : reason.code, reason.message)
        let end = state.withLock { state in
            state.lanes[0].drop()
            state.lanes[1].drop()
            if state.failures[other] == nil { state.failures[other] = told }
            if state.farewell == nil { state.farewell = (farewell, of: side) }
            let end = state.ends[other]
            // It is told this once, and nothing more can come.
            state.ends = [nil, nil]
            return end
        }
        // Where its loop has shut down, nobody is left to be told.
        _ = end.map { end in end.loop.submitIfRunning { end.withValue { $0.wasReset(told) } } }
    }

    package override func close() {
        guard !isReleased else { return }
        guard hasFinished, failure == nil || failure?.code == .closed else {
            return reset(StreamError(.closed, "the stream to \(description) was closed"))
        }
        observer = nil
        isReleased = true
        tellRelease()
        let writer = state.withLock { state -> LoopBound<LoopBridge>? in
            state.ends[own] = nil
            guard !hasReadEnd, !state.lanes[other].isEnded else { return nil }
            // What this end has said is still read; what it would be told, nobody reads.
            state.lanes[other].isAbandoned = true
            state.lanes[other].drop()
            return state.ends[other]
        }
        if let writer { wake(writer) { $0.hasRoom() } }
    }

    private func tellRelease() {
        guard let onRelease else { return }
        self.onRelease = nil
        onRelease()
    }

    // MARK: The other end

    private func wake(_ end: LoopBound<LoopBridge>, _ body: @escaping @Sendable (LoopBridge) -> Void) {
        guard !end.loop.submitIfRunning({ end.withValue(body) }), !isReleased else { return }
        let gone = StreamError(.closed, "the event loop of the stream to \(description) has shut down")
        loop.later { [weak self] in self?.wasReset(StreamError(.reset, gone.message)) }
    }

    private func hasBytes() {
        guard !isReleased else { return }
        observer?.streamReadable(self)
    }

    private func hasRoom() {
        guard !isReleased else { return }
        observer?.streamWritable(self)
    }

    private func wasReset(_ error: StreamError) {
        guard !isReleased else { return }
        fail(error)
        state.withLock { if $0.failures[own] == nil { $0.failures[own] = error } }
        observer?.streamFailed(self)
    }
}
