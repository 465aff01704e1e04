import CLinux

/// The pieces of one batch that belong to one stream: the first and the last, as indices of the ``ChunkList``.
struct ChunkRange: Hashable {
    fileprivate(set) var first: Int32 = -1
    fileprivate(set) var last: Int32 = -1

    var isEmpty: Bool { first < 0 }
}

/// What one call of nghttp2 found in a batch of bytes: pieces of the batch buffer, linked by stream, so that each
/// stream gets its own with one call.
struct ChunkList {
    private struct Chunk {
        var vector: iovec
        /// The next piece of the same stream; −1 at the end.
        var next: Int32
    }

    private var chunks: ContiguousArray<Chunk> = []

    /// Adds the next piece of a stream. Small frames in a row become one piece: they are moved together inside of the
    /// batch buffer, where nghttp2 is past everything before `bytes`.
    mutating func append(_ bytes: UnsafeMutableRawPointer, _ count: Int, to range: inout ChunkRange) {
        let index = Int32(truncatingIfNeeded: chunks.count)
        if range.last >= 0 {
            let last = Int(range.last)
            if count <= 4096, last == chunks.count - 1, let base = chunks[last].vector.iov_base {
                let end = base + chunks[last].vector.iov_len
                memmove(end, bytes, count)
                chunks[last].vector.iov_len += count
                return
            }
            chunks[last].next = index
        } else {
            range.first = index
        }
        range.last = index
        chunks.append(Chunk(vector: iovec(iov_base: bytes, iov_len: count), next: -1))
    }

    /// Takes the pieces of one stream out, in order. Returns their bytes.
    func take(_ range: inout ChunkRange, into vectors: inout ContiguousArray<iovec>) -> Int {
        var count = 0
        var index = range.first
        while index >= 0 {
            let chunk = chunks[Int(index)]
            vectors.append(chunk.vector)
            count += chunk.vector.iov_len
            index = chunk.next
        }
        range = ChunkRange()
        return count
    }

    /// The first piece of a stream, which stays.
    func first(of range: ChunkRange) -> UnsafeRawBufferPointer {
        guard !range.isEmpty else { return UnsafeRawBufferPointer(start: nil, count: 0) }
        let vector = chunks[Int(range.first)].vector
        return UnsafeRawBufferPointer(start: vector.iov_base, count: vector.iov_len)
    }

    mutating func removeAll() { chunks.removeAll(keepingCapacity: chunks.capacity <= 1024) }
}
