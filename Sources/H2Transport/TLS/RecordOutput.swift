internal import CLinux
internal import Streams

/// Ciphertext on its way to the transport: one batch of records, contiguous, so that it leaves with one system call.
///
/// Holds no memory while empty. Confined to its event loop; the owner calls ``removeAll()`` before letting it go.
struct RecordOutput {
    private let pool: BufferPool
    private var batch: Buffer?
    /// What did not fit: record headers and tags beyond 256 KiB of plaintext, or a long handshake flight.
    private var overflow: Buffer?

    init(pool: BufferPool) {
        self.pool = pool
    }

    var isEmpty: Bool { batch == nil }

    var count: Int { (batch?.readableBytes ?? 0) + (overflow?.readableBytes ?? 0) }

    /// Picks the size of the buffer for `length` bytes of plaintext. Only where empty; without it the batch is small.
    mutating func prepare(forPlaintext length: Int) {
        guard batch == nil else { return }
        // A record adds a header of 5, a content type of 1 and a tag of 16 bytes to at most 16 KiB (RFC 8446 §5.2).
        let sealed = length + (length / 16_384 + 1) * 22
        batch = pool.take(
            sealed <= BufferSize.small.rawValue ? .small : sealed <= BufferSize.medium.rawValue ? .medium : .large
        )
    }

    /// Copies as much as there is room for; returns how much that was.
    mutating func append(_ bytes: UnsafeRawBufferPointer) -> Int {
        if batch == nil { batch = pool.take(.small) }
        guard let batch else { return 0 }
        var taken = 0
        // Once there is overflow, everything later goes behind it.
        if overflow == nil { taken = copy(bytes, into: batch) }
        if taken < bytes.count {
            let buffer = overflow ?? pool.take(batch.size == .large ? .small : .medium)
            overflow = buffer
            taken += copy(UnsafeRawBufferPointer(rebasing: bytes[taken...]), into: buffer)
        }
        return taken
    }

    private func copy(_ bytes: UnsafeRawBufferPointer, into buffer: Buffer) -> Int {
        let length = min(bytes.count, buffer.writableBytes)
        guard length > 0, let source = bytes.baseAddress else { return 0 }
        (buffer.base + buffer.writeIndex).copyMemory(from: source, byteCount: length)
        buffer.writeIndex += length
        return length
    }

    /// Calls `body` with what there is, in one or two pieces. Only where not empty.
    func withVectors<Result>(_ body: (UnsafeBufferPointer<iovec>) -> Result) -> Result {
        withUnsafeTemporaryAllocation(of: iovec.self, capacity: 2) { vectors in
            var used = 0
            if let batch, batch.readableBytes > 0 {
                vectors[used] = iovec(iov_base: batch.base + batch.readIndex, iov_len: batch.readableBytes)
                used += 1
            }
            if let overflow {
                vectors[used] = iovec(iov_base: overflow.base + overflow.readIndex, iov_len: overflow.readableBytes)
                used += 1
            }
            return body(UnsafeBufferPointer(rebasing: vectors[..<used]))
        }
    }

    /// Drops `length` bytes from the front, and gives the buffers back when that was everything.
    mutating func consume(_ length: Int) {
        var rest = length
        if let batch {
            let taken = min(rest, batch.readableBytes)
            batch.readIndex += taken
            rest -= taken
        }
        if let overflow {
            precondition(rest <= overflow.readableBytes, "the transport took more than it was given")
            overflow.readIndex += rest
        } else {
            precondition(rest == 0, "the transport took more than it was given")
        }
        if count == 0 { removeAll() }
    }

    mutating func removeAll() {
        if let batch { pool.give(batch) }
        if let overflow { pool.give(overflow) }
        batch = nil
        overflow = nil
    }
}
