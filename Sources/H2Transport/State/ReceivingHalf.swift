import CLinux
import Streams

/// What the peer sends on a stream: its state, what waits for the reader, and the window that bounds it.
struct ReceivingHalf {
    /// Where bytes are written as they come, in the place of a reader.
    struct Sink {
        let stream: ByteStream
        let pump: Pump
        var isFull = false
        var hasFailed = false
    }

    var state = ReceiveState.open
    /// What arrived and nobody took; nothing, while the sink or the reader keeps up.
    private(set) var queue: ByteQueue
    /// The part of the batch being delivered that nobody took yet.
    private var batch = BatchReader()
    /// The chunks of the batch being read that belong to this stream.
    var chunks = ChunkRange()
    var window: ReceiveWindow
    /// Taken by the reader and not yet credited to the peer.
    private var uncredited = 0
    var sink: Sink?
    var readerWaits = true

    init(window: Int, pool: BufferPool) {
        queue = ByteQueue(pool: pool)
        self.window = ReceiveWindow(size: window)
    }

    /// Both directions of the transport apart, nothing before the end is left to read.
    var isEmpty: Bool { queue.isEmpty && chunks.isEmpty }

    // MARK: The reader

    mutating func read(into buffer: UnsafeMutableRawBufferPointer) -> Int {
        var count = queue.isEmpty ? 0 : queue.read(into: buffer)
        if count < buffer.count { count += batch.read(into: UnsafeMutableRawBufferPointer(rebasing: buffer[count...])) }
        return count
    }

    /// Returns whether the reader waits, and is to be told.
    mutating func wakeReader() -> Bool {
        defer { readerWaits = false }
        return readerWaits
    }

    // MARK: Delivery

    /// The reader may take the bytes of a batch; ``endOffer(keeps:)`` has to follow.
    mutating func offer(_ vectors: UnsafeBufferPointer<iovec>) {
        batch = BatchReader(vectors: vectors)
        readerWaits = false
    }

    /// Keeps what the reader left, or drops it. Returns how much that was.
    mutating func endOffer(keeps: Bool) -> Int {
        let left = batch.count
        if keeps && left > 0 { batch.append(to: &queue) }
        batch = BatchReader()
        return left
    }

    /// Keeps what comes after the first `start` bytes of a batch.
    mutating func keep(_ vectors: UnsafeBufferPointer<iovec>, from start: Int) {
        var skip = start
        for vector in vectors {
            if skip >= vector.iov_len {
                skip -= vector.iov_len
                continue
            }
            let piece = UnsafeRawBufferPointer(start: vector.iov_base, count: vector.iov_len)
            queue.append(UnsafeRawBufferPointer(rebasing: piece[skip...]))
            skip = 0
        }
    }

    /// The sink has taken `count` bytes of the queue.
    mutating func consume(_ count: Int) { queue.consume(count) }

    /// Drops what waits. Returns how much that was.
    mutating func drop() -> Int {
        let unread = queue.count + batch.count
        queue.removeAll()
        batch = BatchReader()
        return unread
    }

    // MARK: Credit

    /// `count` bytes have left. Returns what the peer is to be told, once that is worth a frame; 0 before.
    ///
    /// - Parameter roundTrip: The smallest seen on the connection, in nanoseconds.
    mutating func credit(_ count: Int, roundTrip: UInt64) -> Int {
        uncredited += count
        guard uncredited >= window.leastCredit(roundTrip: roundTrip) else { return 0 }
        defer { uncredited = 0 }
        return uncredited
    }
}
