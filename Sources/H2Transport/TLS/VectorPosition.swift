internal import CLinux

/// A place in a list of vectors.
struct VectorPosition {
    private var index = 0
    private var offset = 0

    /// What is left of the vector at this place; empty only at the end of the list.
    mutating func contiguous(in vectors: UnsafeBufferPointer<iovec>) -> UnsafeRawBufferPointer {
        while index < vectors.count {
            let vector = vectors[index]
            if offset < vector.iov_len, let base = vector.iov_base {
                return UnsafeRawBufferPointer(start: base + offset, count: vector.iov_len - offset)
            }
            index += 1
            offset = 0
        }
        return UnsafeRawBufferPointer(start: nil, count: 0)
    }

    /// Moves on by `count` bytes, which are left in the current vector.
    mutating func advance(_ count: Int) { offset += count }

    /// Copies the next `count` bytes, which are there, and moves on.
    mutating func copy(_ count: Int, from vectors: UnsafeBufferPointer<iovec>, to destination: UnsafeMutableRawPointer)
    {
        var copied = 0
        while copied < count {
            let piece = contiguous(in: vectors)
            guard let source = piece.baseAddress else { return }
            let length = min(piece.count, count - copied)
            (destination + copied).copyMemory(from: source, byteCount: length)
            advance(length)
            copied += length
        }
    }
}
