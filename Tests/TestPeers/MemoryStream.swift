public import Glibc
public import Streams

/// One end of a bidirectional pipe in memory: a ``ByteStream`` with the semantics of a TCP connection (bounded buffer,
/// half-close, resets that the peer sees) and no system call, so that what a test does with it repeats exactly.
///
/// Both ends live on one event loop and must be closed or reset there, or the pipe's buffers stay out of the loop's
/// pool.
public final class MemoryStream: ByteStream, TurnTask {
    private var incoming: ByteQueue
    private let capacity: Int
    private var peer: MemoryStream?
    private var peerFinished = false
    private var isFinished = false
    private var isClosed = false

    private var wantsReadable = false
    private var wantsWritable = false
    private var notices: Notices = []
    private var isScheduled = false

    private struct Notices: OptionSet {
        let rawValue: UInt8
        static let readable = Notices(rawValue: 1)
        static let writable = Notices(rawValue: 2)
        static let failed = Notices(rawValue: 4)
    }

    private init(loop: EventLoop, capacity: Int) {
        incoming = ByteQueue(pool: loop.buffers)
        self.capacity = capacity
        super.init(loop: loop)
    }

    /// Two connected ends. Loop only.
    ///
    /// - Parameter capacity: How many bytes each direction holds before its writer must wait; at least 1.
    public static func pair(on loop: EventLoop, capacity: Int = 65536) -> (MemoryStream, MemoryStream) {
        precondition(capacity >= 1, "a pipe holds at least one byte")
        let first = MemoryStream(loop: loop, capacity: capacity)
        let second = MemoryStream(loop: loop, capacity: capacity)
        first.peer = second
        second.peer = first
        return (first, second)
    }

    public override var peerDescription: String { "memory" }

    /// Bytes the peer has written that were not read yet.
    public var unreadBytes: Int { incoming.count }

    public override func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        guard isUsable() else { return .failed }
        guard !incoming.isEmpty else {
            guard !peerFinished else { return .end }
            wantsReadable = true
            return .wouldBlock
        }
        let count = incoming.read(into: buffer)
        if let peer, peer.wantsWritable {
            peer.wantsWritable = false
            peer.notify(.writable)
        }
        return .bytes(count)
    }

    public override func write(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        guard isUsable() else { return .failed }
        guard !isFinished else {
            fail(StreamError(.closed, "write after the end of the stream to memory"))
            return .failed
        }
        guard let peer else {
            fail(StreamError(.reset, "writing to memory: the peer closed"))
            return .failed
        }
        var offered = 0
        var accepted = 0
        for vector in vectors {
            offered += vector.iov_len
            let length = min(vector.iov_len, capacity - peer.incoming.count)
            guard length > 0 else { continue }
            peer.incoming.append(UnsafeRawBufferPointer(start: vector.iov_base, count: length))
            accepted += length
        }
        if accepted > 0, peer.wantsReadable {
            peer.wantsReadable = false
            peer.notify(.readable)
        }
        if accepted < offered { wantsWritable = true }
        return accepted == 0 && offered > 0 ? .wouldBlock : .bytes(accepted)
    }

    public override func finish() {
        guard !isFinished, !isClosed, failure == nil else { return }
        isFinished = true
        guard let peer else { return }
        peer.peerFinished = true
        if peer.wantsReadable {
            peer.wantsReadable = false
            peer.notify(.readable)
        }
    }

    public override func reset(_ reason: StreamError) {
        guard !isClosed else { return }
        fail(reason)
        if let peer {
            peer.incoming.removeAll()
            if peer.failure == nil {
                peer.fail(StreamError(.reset, "memory: the peer reset the stream (\(reason))"))
                peer.notify(.failed)
            }
        }
        release()
    }

    public override func close() {
        guard !isClosed else { return }
        guard isFinished || failure != nil else { return reset(.closed(self)) }
        fail(.closed(self))
        release()
    }

    public func runTurn() {
        isScheduled = false
        let due = notices
        notices = []
        guard !isClosed else { return }
        if due.contains(.failed) {
            observer?.streamFailed(self)
            return
        }
        if due.contains(.readable) { observer?.streamReadable(self) }
        if due.contains(.writable), !isClosed { observer?.streamWritable(self) }
    }

    private func isUsable() -> Bool {
        if isClosed { fail(.closed(self)) }
        return failure == nil
    }

    private func notify(_ notice: Notices) {
        notices.insert(notice)
        guard !isScheduled else { return }
        isScheduled = true
        loop.nextTurn(self)
    }

    private func release() {
        isClosed = true
        incoming.removeAll()
        peer?.peer = nil
        // Who waits for room learns at its next write that nobody will make any.
        if let peer, peer.wantsWritable {
            peer.wantsWritable = false
            peer.notify(.writable)
        }
        peer = nil
    }
}
