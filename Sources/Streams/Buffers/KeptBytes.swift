/// Bytes that were sent and may have to be sent again: a first-in-first-out queue that nobody reads while all is well.
/// Large pieces stay where they were sent from, in the sender's own buffer, which goes back to its pool when the last
/// of them is not needed any more; small ones are copied. Confined to its event loop; the owner empties it with
/// ``removeAll()`` before letting it go, so that the buffers return to the pool.
@usableFromInline package struct KeptBytes {
    private struct Piece {
        let buffer: Buffer
        var start: Int
        var end: Int
        /// Somebody else's buffer, which is held: once for all pieces of it that stand beside each other.
        let isShared: Bool

        var count: Int { end - start }
    }

    private let pool: BufferPool
    private var pieces: ContiguousArray<Piece> = []
    /// The end of the last piece was lent by ``reserve(expecting:)``, so it must stay where it is.
    private var isReserved = false

    @usableFromInline package private(set) var count = 0
    /// Memory that is held, in bytes: the size of the buffers, however little of them is kept. One that several queues
    /// share counts for the first that came, and off the last that goes: only the sum of all of them means something,
    /// and one may be below zero.
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
            let (index, room) = roomForMore(expecting: rest.count)
            let length = min(rest.count, room)
            (pieces[index].buffer.base + pieces[index].end).copyMemory(from: source, byteCount: length)
            pieces[index].end += length
            count += length
            rest = UnsafeRawBufferPointer(rebasing: rest[length...])
        }
    }

    /// Adds `bytes`, which stay where they are in `buffer`: nobody writes there until the buffer is back in its pool.
    package mutating func append(_ bytes: UnsafeRawBufferPointer, in buffer: Buffer) {
        guard let base = bytes.baseAddress, !bytes.isEmpty else { return }
        precondition(buffer.holds(bytes), "the bytes are not in that buffer")
        isReserved = false
        let start = base - UnsafeRawPointer(buffer.base)
        if let last = pieces.last, last.isShared, last.buffer === buffer {
            if last.end == start {
                pieces[pieces.count - 1].end += bytes.count
                count += bytes.count
                return
            }
        } else {
            pool.share(buffer)
            buffer.keepers += 1
            if buffer.keepers == 1 { capacity += buffer.capacity }
        }
        pieces.append(Piece(buffer: buffer, start: start, end: start + bytes.count, isShared: true))
        count += bytes.count
    }

    /// Free space at the end, at least one byte, for a producer that writes in place; ``commit(_:)`` says how much it
    /// wrote. Bytes may be dropped meanwhile, but none appended.
    package mutating func reserve(expecting size: Int) -> UnsafeMutableRawBufferPointer {
        let (index, room) = roomForMore(expecting: size)
        isReserved = true
        return UnsafeMutableRawBufferPointer(start: pieces[index].buffer.base + pieces[index].end, count: room)
    }

    /// `length` bytes were written at the start of what ``reserve(expecting:)`` returned last; 0 gives the space back.
    package mutating func commit(_ length: Int) {
        if length > 0 {
            precondition(isReserved, "commit without reserve")
            let last = pieces.count - 1
            precondition(length <= pieces[last].buffer.capacity - pieces[last].end, "committing more than was lent")
            pieces[last].end += length
            count += length
        }
        isReserved = false
        if let last = pieces.last, last.count == 0 {
            pieces.removeLast()
            giveBack(last.buffer, isShared: false)
        }
    }

    /// Copies bytes that stay in the queue, from `offset` on; `0...count`. Returns how many.
    package func copy(from offset: Int, into destination: UnsafeMutableRawBufferPointer) -> Int {
        guard let base = destination.baseAddress else { return 0 }
        var skip = offset
        var copied = 0
        for piece in pieces where copied < destination.count {
            guard skip < piece.count else {
                skip -= piece.count
                continue
            }
            let length = min(piece.count - skip, destination.count - copied)
            (base + copied).copyMemory(from: piece.buffer.base + piece.start + skip, byteCount: length)
            copied += length
            skip = 0
        }
        return copied
    }

    /// Drops `length` bytes from the front; `0...count`.
    package mutating func consume(_ length: Int) {
        precondition(length >= 0 && length <= count, "consuming \(length) of \(count) bytes")
        count -= length
        var rest = length
        var emptied = 0
        while emptied < pieces.count {
            let taken = min(rest, pieces[emptied].count)
            pieces[emptied].start += taken
            rest -= taken
            guard pieces[emptied].count == 0, !(isReserved && emptied == pieces.count - 1) else { break }
            let (buffer, isShared) = (pieces[emptied].buffer, pieces[emptied].isShared)
            emptied += 1
            // What stands beside it in the same buffer holds that still.
            if isShared, emptied < pieces.count, pieces[emptied].isShared, pieces[emptied].buffer === buffer {
                continue
            }
            giveBack(buffer, isShared: isShared)
        }
        if emptied == pieces.count {
            pieces.removeAll(keepingCapacity: emptied < 8)
        } else if emptied > 0 {
            pieces.removeFirst(emptied)
        }
    }

    /// Drops everything.
    package mutating func removeAll() {
        guard !pieces.isEmpty else { return }
        isReserved = false
        consume(count)
        // One that was lent and has nothing in it.
        commit(0)
        pieces = []
    }

    private mutating func giveBack(_ buffer: Buffer, isShared: Bool) {
        if isShared { buffer.keepers -= 1 }
        if !isShared || buffer.keepers == 0 { capacity -= buffer.capacity }
        pool.give(buffer)
    }

    private mutating func roomForMore(expecting size: Int) -> (index: Int, room: Int) {
        if let last = pieces.last, !last.isShared, last.end < last.buffer.capacity {
            return (pieces.count - 1, last.buffer.capacity - last.end)
        }
        let buffer = pool.take(size <= BufferSize.small.rawValue ? .small : .medium)
        pieces.append(Piece(buffer: buffer, start: 0, end: 0, isShared: false))
        capacity += buffer.capacity
        return (pieces.count - 1, buffer.capacity)
    }
}
