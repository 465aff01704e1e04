import CLinux
import Streams

/// What this side sends on a stream: its state, what waits to be sent, and its place in the connection's schedule.
struct SendingHalf {
    var state = SendState.open
    /// Nothing goes out before the answer has come, or was given: a tunnel's bytes belong to whoever is behind the
    /// peer.
    var isHeld: Bool
    private(set) var queue: ByteQueue
    /// Read by the connection itself when it has room.
    var source: ByteStream?
    /// Told of what was read from ``source``, and of its end.
    var pump: Pump?
    var sourceMayRead = false
    var writerWaits = false
    /// nghttp2 asks for no data until it is resumed (NGHTTP2_ERR_DEFERRED).
    var isDeferred = false
    /// Waits for its turn in the connection's schedule.
    var isScheduled = false
    /// Sent since the stream last waited for its turn.
    var sentInTurn = 0

    init(isHeld: Bool, pool: BufferPool) {
        self.isHeld = isHeld
        queue = ByteQueue(pool: pool)
    }

    /// Bytes or the end wait to be sent.
    var hasMore: Bool { !queue.isEmpty || source != nil || state == .finishing }

    /// nghttp2 was told that there is something, and does not ask for it: the peer's window is used up. What waits for
    /// the answer is no matter of the peer's.
    var isBlocked: Bool {
        !isHeld && (!queue.isEmpty || !isDeferred && (source != nil && sourceMayRead || state == .finishing))
    }

    // MARK: The writer

    /// Accepts bytes while no more than `limit` wait. Returns how many, nil without room; the writer waits where that
    /// is not all of them.
    mutating func accept(_ vectors: UnsafeBufferPointer<iovec>, limit: Int) -> Int? {
        var room = limit - queue.count
        guard room > 0 else {
            writerWaits = true
            return nil
        }
        var accepted = 0
        for vector in vectors {
            let length = min(vector.iov_len, room)
            queue.append(UnsafeRawBufferPointer(start: vector.iov_base, count: length))
            accepted += length
            room -= length
            if length < vector.iov_len {
                writerWaits = true
                break
            }
        }
        return accepted
    }

    /// Returns whether the writer waits, and is to be told.
    mutating func wakeWriter() -> Bool {
        defer { writerWaits = false }
        return writerWaits
    }

    // MARK: Frames

    mutating func read(into space: UnsafeMutableRawBufferPointer) -> Int { queue.read(into: space) }

    /// The answer lets the stream's bytes go. Returns whether there are any, or an end.
    mutating func release() -> Bool {
        isHeld = false
        return hasMore
    }

    mutating func drop() { queue.removeAll() }
}
