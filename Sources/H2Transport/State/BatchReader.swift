import CLinux
import Streams

/// The vectors of a batch while a reader takes them.
struct BatchReader {
    private var vectors = UnsafeBufferPointer<iovec>(start: nil, count: 0)
    private var index = 0
    private var offset = 0
    private(set) var count = 0

    init() {}

    init(vectors: UnsafeBufferPointer<iovec>) {
        self.vectors = vectors
        for vector in vectors { count += vector.iov_len }
    }

    mutating func read(into buffer: UnsafeMutableRawBufferPointer) -> Int {
        guard count > 0, let destination = buffer.baseAddress else { return 0 }
        var copied = 0
        while copied < buffer.count && index < vectors.count {
            let vector = vectors[index]
            let length = min(buffer.count - copied, vector.iov_len - offset)
            if let base = vector.iov_base { (destination + copied).copyMemory(from: base + offset, byteCount: length) }
            copied += length
            offset += length
            if offset == vector.iov_len {
                index += 1
                offset = 0
            }
        }
        count -= copied
        return copied
    }

    /// What was not read.
    func append(to queue: inout ByteQueue) {
        var skip = offset
        for vector in vectors[index...] {
            let piece = UnsafeRawBufferPointer(start: vector.iov_base, count: vector.iov_len)
            queue.append(UnsafeRawBufferPointer(rebasing: piece[skip...]))
            skip = 0
        }
    }
}
