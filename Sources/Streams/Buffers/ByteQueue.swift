public import CLinux

/// Bytes that wait for room: a first-in-first-out queue of pooled buffers. Empty, it holds no memory. Confined to its event
/// loop; the owner empties it with ``removeAll()`` before letting it go, so that the buffers return to the pool.
public struct ByteQueue {
    private let pool: BufferPool
    private var buffers: ContiguousArray<Buffer> = []
    /// Buffers before this index were consumed. Avoids shifting the array for each one.
    private var first = 0

    /// Bytes in the queue.
    public private(set) var count = 0

    public init(pool: BufferPool) {
        self.pool = pool
    }

    public var isEmpty: Bool { count == 0 }

    /// Copies `bytes` to the end.
    public mutating func append(_ bytes: UnsafeRawBufferPointer) {
        var rest = bytes
        while let source = rest.baseAddress, !rest.isEmpty {
            let buffer = roomForMore(expecting: rest.count)
            let length = min(rest.count, buffer.writableBytes)
            (buffer.base + buffer.writeIndex).copyMemory(from: source, byteCount: length)
            buffer.writeIndex += length
            count += length
            rest = UnsafeRawBufferPointer(rebasing: rest[length...])
        }
    }

    /// Free space at the end, for a producer that writes in place; ``commit(_:)`` says how much it wrote.
    public mutating func reserve(expecting size: Int) -> UnsafeMutableRawBufferPointer {
        roomForMore(expecting: size).writable
    }

    /// `length` bytes were written at the start of what ``reserve(expecting:)`` returned last.
    public mutating func commit(_ length: Int) {
        guard length > 0 else {
            if let last = buffers.last, last.readableBytes == 0 { pool.give(buffers.removeLast()) }
            return
        }
        buffers[buffers.count - 1].writeIndex += length
        count += length
    }

    /// Calls `body` with the queue's contents from the front, in at most 64 pieces.
    public func withVectors<Result>(_ body: (UnsafeBufferPointer<iovec>) throws -> Result) rethrows -> Result {
        try withUnsafeTemporaryAllocation(of: iovec.self, capacity: 64) { vectors in
            var used = 0
            var index = first
            while index < buffers.count && used < 64 {
                let buffer = buffers[index]
                if buffer.readableBytes > 0 {
                    vectors[used] = iovec(iov_base: buffer.base + buffer.readIndex, iov_len: buffer.readableBytes)
                    used += 1
                }
                index += 1
            }
            return try body(UnsafeBufferPointer(rebasing: vectors[..<used]))
        }
    }

    /// The first contiguous piece; empty when the queue is.
    public var front: UnsafeRawBufferPointer {
        var index = first
        while index < buffers.count {
            if buffers[index].readableBytes > 0 { return buffers[index].readable }
            index += 1
        }
        return UnsafeRawBufferPointer(start: nil, count: 0)
    }

    /// Copies bytes from the front into `destination` and consumes them. Returns how many.
    public mutating func read(into destination: UnsafeMutableRawBufferPointer) -> Int {
        guard let base = destination.baseAddress else { return 0 }
        var copied = 0
        while copied < destination.count && count > 0 {
            let piece = front
            guard let source = piece.baseAddress else { break }
            let length = min(piece.count, destination.count - copied)
            (base + copied).copyMemory(from: source, byteCount: length)
            consume(length)
            copied += length
        }
        return copied
    }

    /// Drops `length` bytes from the front; `0...count`.
    public mutating func consume(_ length: Int) {
        precondition(length <= count, "consuming \(length) of \(count) bytes")
        count -= length
        var rest = length
        while first < buffers.count {
            let buffer = buffers[first]
            let taken = min(rest, buffer.readableBytes)
            buffer.readIndex += taken
            rest -= taken
            guard buffer.readableBytes == 0 else { break }
            // Every buffer that was read to its end goes back, so that an empty queue holds none.
            pool.give(buffer)
            first += 1
            if rest == 0 && first < buffers.count && buffers[first].readableBytes > 0 { break }
        }
        if first == buffers.count {
            buffers.removeAll(keepingCapacity: false)
            first = 0
        } else if first >= 32 {
            buffers.removeFirst(first)
            first = 0
        }
    }

    /// Drops everything.
    public mutating func removeAll() {
        for buffer in buffers[first...] { pool.give(buffer) }
        buffers.removeAll(keepingCapacity: false)
        first = 0
        count = 0
    }

    private mutating func roomForMore(expecting size: Int) -> Buffer {
        if first < buffers.count, let last = buffers.last, last.writableBytes > 0 { return last }
        let buffer = pool.take(size <= BufferSize.small.rawValue ? .small : .medium)
        buffers.append(buffer)
        return buffer
    }
}
