package import CLinux

/// Bytes that wait for room: a first-in-first-out queue of pooled buffers. Empty, it holds no memory. Confined to its
/// event loop; the owner empties it with ``removeAll()`` before letting it go, so that the buffers return to the pool.
@usableFromInline package struct ByteQueue {
    private let pool: BufferPool
    /// Every buffer here belongs to the queue and, but for a reserved last one, has bytes to read.
    private var buffers: ContiguousArray<Buffer> = []
    /// The end of the last buffer was lent by ``reserve(expecting:)``, so it must stay where it is.
    private var isReserved = false

    /// Bytes in the queue.
    @usableFromInline package private(set) var count = 0
    /// Memory that the queue holds, in bytes: the size of its buffers, however full they are.
    package private(set) var capacity = 0

    package init(pool: BufferPool) {
        self.pool = pool
    }

    @inlinable package var isEmpty: Bool { count == 0 }

    /// Copies `bytes` to the end. Ends a reservation that was not committed.
    package mutating func append(_ bytes: UnsafeRawBufferPointer) {
        isReserved = false
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

    /// Free space at the end, at least one byte, for a producer that writes in place; ``commit(_:)`` says how much it
    /// wrote. Bytes may be read and consumed meanwhile, but none appended.
    package mutating func reserve(expecting size: Int) -> UnsafeMutableRawBufferPointer {
        let buffer = roomForMore(expecting: size)
        isReserved = true
        return buffer.writable
    }

    /// `length` bytes were written at the start of what ``reserve(expecting:)`` returned last; 0 gives the space back.
    package mutating func commit(_ length: Int) {
        if length > 0 {
            precondition(isReserved, "commit without reserve")
            let last = buffers[buffers.count - 1]
            precondition(length <= last.writableBytes, "committing \(length) of \(last.writableBytes) bytes")
            last.writeIndex += length
            count += length
        }
        isReserved = false
        if let last = buffers.last, last.readableBytes == 0 {
            capacity -= last.capacity
            pool.give(buffers.removeLast())
        }
    }

    /// Calls `body` with the queue's contents from the front, in at most 64 pieces.
    package func withVectors<Result>(_ body: (UnsafeBufferPointer<iovec>) throws -> Result) rethrows -> Result {
        try withUnsafeTemporaryAllocation(of: iovec.self, capacity: 64) { vectors in
            var used = 0
            for buffer in buffers.prefix(64) where buffer.readableBytes > 0 {
                vectors[used] = iovec(iov_base: buffer.base + buffer.readIndex, iov_len: buffer.readableBytes)
                used += 1
            }
            return try body(UnsafeBufferPointer(rebasing: vectors[..<used]))
        }
    }

    /// The first contiguous piece; empty when the queue is.
    package var front: UnsafeRawBufferPointer {
        guard count > 0 else { return UnsafeRawBufferPointer(start: nil, count: 0) }
        return buffers[0].readable
    }

    /// Copies bytes from the front into `destination` and consumes them. Returns how many.
    package mutating func read(into destination: UnsafeMutableRawBufferPointer) -> Int {
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
    package mutating func consume(_ length: Int) {
        precondition(length >= 0 && length <= count, "consuming \(length) of \(count) bytes")
        count -= length
        var rest = length
        var emptied = 0
        for buffer in buffers {
            let taken = min(rest, buffer.readableBytes)
            buffer.readIndex += taken
            rest -= taken
            // Every buffer that was read to its end goes back, so that an empty queue holds none.
            guard buffer.readableBytes == 0, !(isReserved && emptied == buffers.count - 1) else { break }
            capacity -= buffer.capacity
            pool.give(buffer)
            emptied += 1
        }
        // Shifts a pointer for each 4 to 64 KiB that remain, which is nothing beside having moved the bytes.
        if emptied > 0 { buffers.removeFirst(emptied) }
    }

    /// Drops everything.
    package mutating func removeAll() {
        for buffer in buffers { pool.give(buffer) }
        buffers.removeAll(keepingCapacity: false)
        count = 0
        capacity = 0
        isReserved = false
    }

    private mutating func roomForMore(expecting size: Int) -> Buffer {
        if let last = buffers.last, last.writableBytes > 0 { return last }
        let buffer = pool.take(size <= BufferSize.small.rawValue ? .small : .medium)
        buffers.append(buffer)
        capacity += buffer.capacity
        return buffer
    }
}
