import CLinux
import Streams

/// One byte stream over several others, its subflows: what is written is cut into frames, which go out on whichever
/// subflow takes them, and are put in order again by their sequence numbers. Confined to its event loop.
///
///     write → frames 0 1 2 3 4 … ─┬─ subflow a: 0 2 5 …  ─┬─→ in order → read
///                                 └─ subflow b: 1 3 4 …  ─┘
///
/// It is there for long paths, where one subflow's window is what limits a stream (docs/ssh.md). Nothing is buffered to
/// restore the order: on each subflow the frames ascend, so that the next one always stands at the head of some
/// subflow, and the others wait where they are, which is their senders' back-pressure.
///
/// Subflows may join at any time. When one fails, the whole stream fails: bytes are missing. Neither side is
/// authenticated here: what goes through is mutual TLS, which notices everything that anybody could do to its bytes.
final class StripedStream: ByteStream {
    /// More would not help anybody.
    static let maximumSubflows = 16

    enum Side {
        /// Sends the preface on every subflow, and waits for the other side's.
        case client
        case server
    }

    let preface: StripePreface
    /// Told once when no subflow is left.
    var onEnd: (() -> Void)?

    private let side: Side
    private let peer: String
    private var subflows: [Subflow] = []
    /// The client's first subflow has been answered.
    private var established: ((Result<Void, StreamError>) -> Void)?
    /// It is read and written before that: the server is known to answer.
    private var isTrusting = false

    private var nextReceived: UInt32 = 0
    /// The subflow whose frame is being read.
    private var current: Subflow?

    private var nextSent: UInt32 = 0
    private var nextWriter = 0
    private var ends = StreamEnds()
    /// After ``close()``, while accepted bytes are on their way.
    private var lingering = Retained<StripedStream>()

    init(_ preface: StripePreface, over first: ByteStream, as side: Side) {
        self.preface = preface
        self.side = side
        peer = first.peerDescription
        super.init(loop: first.loop)
        add(first)
    }

    /// Client: waits for the server's answer on the first subflow. `completion` is called once, on the loop, never from
    /// inside this call; after a failure the stream is over.
    ///
    /// - Parameter trusting: The stream is used meanwhile, and saves the round trip: the server is known to answer.
    func establish(trusting: Bool = false, _ completion: @escaping (Result<Void, StreamError>) -> Void) {
        precondition(established == nil, "it is established once")
        established = completion
        isTrusting = trusting
        loop.later { self.awaitAnswer() }
    }

    private func awaitAnswer() {
        guard established != nil, let first = subflows.first else { return }
        switch first.advance() {
        case .failed(let error): broken(error)
        case .ended: broken(first.truncated)
        case .frame, .nothing: noteAnswer()
        }
    }

    private func noteAnswer() {
        guard let established, subflows.first?.hasGreeted == true else { return }
        self.established = nil
        established(.success(()))
    }

    override var peerDescription: String { peer }

    var subflowCount: Int { subflows.count }

    /// Adds another subflow. One that comes too late, or that is one too many, is reset.
    func add(_ stream: ByteStream) {
        guard !ends.isReleased, failure == nil, subflows.count < Self.maximumSubflows else {
            return stream.reset(StreamError(.closed, "the striped stream takes no more subflows"))
        }
        let greeting = side == .client ? preface.bytes : StripePreface.magic
        let subflow = Subflow(stream, greeting: greeting, expectsGreeting: side == .client)
        subflows.append(subflow)
        stream.observer = self
        if let error = subflow.flush() { return loop.later { self.broken(error) } }
        guard ends.writing == .open else { return subflow.finishIfDone() }
        // It may bring the room that a writer waits for, and bytes that nobody would be told of any more.
        loop.later {
            self.notifyWritable()
            self.notifyReadable()
        }
    }

    // MARK: Reading

    override func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        guard failure == nil, !ends.isReleased else { return refuseRead() }
        // The reader may be the first to see the answer.
        if established != nil { loop.later { self.noteAnswer() } }
        var copied = 0
        while copied < buffer.count, ends.reading == .open, let subflow = frameInTurn() {
            if subflow.finishFrame() {
                nextReceived &+= 1
                current = nil
                continue
            }
            switch subflow.readPayload(into: UnsafeMutableRawBufferPointer(rebasing: buffer[copied...])) {
            case .bytes(let count): copied += count
            case .wouldBlock: return copied > 0 ? .bytes(copied) : ends.blockReader()
            case .end:
                fail(subflow.truncated)
                return copied > 0 ? .bytes(copied) : .failed
            case .failed:
                fail(subflow.stream.failure ?? subflow.truncated)
                return copied > 0 ? .bytes(copied) : .failed
            }
        }
        if copied > 0 { return .bytes(copied) }
        if failure != nil { return .failed }
        return ends.reading == .open ? ends.blockReader() : ends.deliverEnd()
    }

    /// The subflow with the frame whose turn it is; nil when it has not come yet, or is the end, or cannot come any
    /// more.
    private func frameInTurn() -> Subflow? {
        if let current { return current }
        var isWaiting = false
        for subflow in subflows {
            // An unread head knows its sequence number, whether there is more to read or not.
            if case .frame = subflow.head {
            } else if !subflow.canRead {
                isWaiting = isWaiting || !subflow.hasEnded
                continue
            }
            switch subflow.advance() {
            case .frame(let sequence) where sequence == nextReceived:
                if case .frame(_, 0) = subflow.head {
                    ends.receiveEnd()
                    return nil
                }
                current = subflow
                return subflow
            case .frame, .nothing: isWaiting = true
            case .ended: continue
            case .failed(let error):
                fail(error)
                noteRefusal()
                return nil
            }
        }
        if !isWaiting {
            fail(StreamError(.truncated, "\(peer) ended in the middle of a striped stream"))
        }
        return nil
    }

    // MARK: Writing

    override func write(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        guard failure == nil, ends.isWritable else { return refuseWrite() }
        var offered = 0
        for vector in vectors { offered += vector.iov_len }
        guard offered > 0 else { return .bytes(0) }
        var accepted = 0
        var position = (index: 0, offset: 0)
        while accepted < offered {
            guard let subflow = freeSubflow() else { break }
            let length = min(StripeFrame.maximumLength, offered - accepted)
            var next = position
            switch send(vectors, from: &next, length, on: subflow) {
            case .success(true):
                position = next
                accepted += length
                nextSent &+= 1
                nextWriter &+= 1
            case .success(false): continue
            case .failure(let error):
                fail(error)
                return .failed
            }
        }
        return ends.accept(accepted, of: offered)
    }

    /// They take turns, so that all windows are used alike.
    private func freeSubflow() -> Subflow? {
        for index in subflows.indices {
            let subflow = subflows[(nextWriter + index) % subflows.count]
            if subflow.isFree {
                nextWriter = (nextWriter + index) % subflows.count
                return subflow
            }
        }
        return nil
    }

    private func send(
        _ vectors: UnsafeBufferPointer<iovec>,
        from position: inout (index: Int, offset: Int),
        _ length: Int,
        on subflow: Subflow
    ) -> Result<Bool, StreamError> {
        withUnsafeTemporaryAllocation(byteCount: StripeFrame.headerLength, alignment: 8) { header in
            withUnsafeTemporaryAllocation(of: iovec.self, capacity: vectors.count + 1) { pieces in
                guard let start = header.baseAddress else { return .success(false) }
                StripeFrame(length: UInt32(length), sequence: nextSent).write(to: start)
                pieces[0] = iovec(iov_base: start, iov_len: StripeFrame.headerLength)
                var used = 1
                var left = length
                while left > 0 {
                    let vector = vectors[position.index]
                    let count = min(left, vector.iov_len - position.offset)
                    if count > 0, let base = vector.iov_base {
                        pieces[used] = iovec(iov_base: base + position.offset, iov_len: count)
                        used += 1
                    }
                    left -= count
                    position.offset += count
                    if position.offset == vector.iov_len { position = (position.index + 1, 0) }
                }
                let list = UnsafeBufferPointer(rebasing: pieces[..<used])
                return subflow.send(list, count: StripeFrame.headerLength + length)
            }
        }
    }

    // MARK: Ending

    override func finish() {
        guard failure == nil, !subflows.isEmpty, ends.finish() else { return }
        let subflow = freeSubflow() ?? subflows[0]
        withUnsafeTemporaryAllocation(byteCount: StripeFrame.headerLength, alignment: 8) { header in
            guard let start = header.baseAddress else { return }
            StripeFrame(length: 0, sequence: nextSent).write(to: start)
            subflow.enqueue(UnsafeRawBufferPointer(header))
        }
        if !subflow.isBlocked, let error = subflow.flush() { return fail(error) }
        for subflow in subflows { subflow.finishIfDone() }
    }

    override func reset(_ reason: StreamError) {
        guard !ends.isReleased else { return }
        fail(reason)
        observer = nil
        end { $0.reset(reason) }
    }

    override func close() {
        guard !ends.isReleased else { return }
        observer = nil
        guard ends.writing != .open, failure == nil else {
            let reason = StreamError.closed(self)
            fail(reason)
            return end { $0.reset(reason) }
        }
        guard subflows.allSatisfy({ $0.unsent.isEmpty }) else {
            return lingering.hold(self)
        }
        end { $0.close() }
        fail(.closed(self))
    }

    private func end(_ body: (Subflow) -> Void) {
        ends.release()
        lingering.release()
        current = nil
        let subflows = subflows
        self.subflows = []
        subflows.forEach(body)
        let onEnd = onEnd
        self.onEnd = nil
        onEnd?()
    }

    /// A subflow has failed while nobody was calling this stream.
    private func broken(_ error: StreamError) {
        guard !ends.isReleased else { return }
        let error = failure ?? error
        fail(error)
        let wasLingering = lingering.isHeld
        end { $0.reset(error) }
        let established = established
        self.established = nil
        established?(.failure(error))
        if established == nil || isTrusting, !wasLingering { observer?.streamFailed(self) }
    }

    /// What the reader has run into while the answer was awaited: whoever awaits it is told outside of the read.
    private func noteRefusal() {
        guard established != nil else { return }
        loop.later { [self] in
            let established = established
            self.established = nil
            if let failure { established?(.failure(failure)) }
        }
    }

    private func notifyReadable() {
        guard established == nil || isTrusting, ends.wakeReader() else { return }
        observer?.streamReadable(self)
    }

    private func notifyWritable() {
        guard ends.writerWaits, subflows.contains(where: \.isFree), ends.wakeWriter() else { return }
        observer?.streamWritable(self)
    }

    private func subflow(of stream: ByteStream) -> Subflow? { subflows.first { $0.stream === stream } }
}

extension StripedStream: StreamObserver {
    func streamReadable(_ stream: ByteStream) {
        guard let subflow = subflow(of: stream) else { return }
        subflow.becameReadable()
        if established != nil { awaitAnswer() }
        if established == nil || isTrusting { notifyReadable() }
    }

    func streamWritable(_ stream: ByteStream) {
        guard let subflow = subflow(of: stream) else { return }
        if let error = subflow.flush() { return broken(error) }
        if ends.writing != .open { subflow.finishIfDone() }
        if lingering.isHeld {
            if subflows.allSatisfy({ $0.unsent.isEmpty }) { close() }
        } else {
            notifyWritable()
        }
    }

    func streamFailed(_ stream: ByteStream) {
        guard let subflow = subflow(of: stream) else { return }
        // Both directions are over and everything of it was read: nothing is lost.
        if ends.reading != .open && ends.writing != .open && subflow.unsent.isEmpty { return }
        broken(stream.failure ?? subflow.truncated)
    }
}
