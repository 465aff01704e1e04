import Glibc

// Bulk data is a sequence of blocks: 8 bytes of header (block number, top bit set in the last one), then a fixed
// pattern. A receiver checks every byte with memcmp, which costs far less than the transfer, and knows where the stream
// ends without a half-close, which not every peer passes on.

let blockSize = 256 << 10
let headerSize = 8
/// The pattern repeats, so that comparing with it stays in the first-level cache; not in step with any record or frame
/// size.
private let patternPeriod = 1507 * 8
private let lastBlock: UInt64 = 1 << 63

nonisolated(unsafe) let pattern: UnsafeMutableRawPointer = {
    // Written once, before the first thread starts, and read only from then on.
    let memory = UnsafeMutableRawPointer.allocate(byteCount: blockSize, alignment: 4096)
    var state: UInt64 = 88_172_645_463_325_252
    for offset in stride(from: 0, to: blockSize, by: 8) {
        guard offset < patternPeriod else {
            memory.storeBytes(
                of: memory.load(fromByteOffset: offset - patternPeriod, as: UInt64.self),
                toByteOffset: offset,
                as: UInt64.self
            )
            continue
        }
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        memory.storeBytes(of: state, toByteOffset: offset, as: UInt64.self)
    }
    return memory
}()

/// Writes blocks to a socket until told to end.
struct BlockWriter {
    private(set) var total: UInt64 = 0
    private(set) var isFinished = false
    private var index: UInt64 = 0
    private var offset = 0
    private var header: UInt64 = 0
    var shouldEnd = false

    /// Writes as much as the socket takes, a block at most, so that one connection does not starve the others. False
    /// when the connection broke.
    mutating func write(_ socket: Int32) -> Bool {
        let stop = total + UInt64(blockSize)
        while !isFinished, total < stop {
            if offset == 0 {
                header = index | (shouldEnd ? lastBlock : 0)
            }
            let sent = withUnsafeMutableBytes(of: &header) { header -> Int in
                var vectors = (iovec(), iovec())
                var count: Int32 = 1
                if offset < headerSize {
                    vectors.0 = iovec(iov_base: header.baseAddress! + offset, iov_len: headerSize - offset)
                    vectors.1 = iovec(iov_base: pattern, iov_len: blockSize - headerSize)
                    count = 2
                } else {
                    vectors.0 = iovec(iov_base: pattern + (offset - headerSize), iov_len: blockSize - offset)
                }
                return withUnsafeBytes(of: &vectors) {
                    writev(socket, $0.baseAddress!.assumingMemoryBound(to: iovec.self), count)
                }
            }
            if sent < 0 {
                return errno == EAGAIN
            }
            total += UInt64(sent)
            offset += sent
            if offset == blockSize {
                offset = 0
                index += 1
                isFinished = header & lastBlock != 0
            }
        }
        return true
    }
}

/// Checks a stream of blocks.
struct BlockReader {
    private(set) var total: UInt64 = 0
    private(set) var isFinished = false
    private(set) var isCorrupt = false
    private var index: UInt64 = 0
    private var offset = 0
    private var header: UInt64 = 0

    /// Checks `bytes` and returns how many belong to the stream; what follows the last block does not.
    mutating func check(_ bytes: UnsafeRawBufferPointer) -> Int {
        var used = 0
        while used < bytes.count, !isFinished {
            if offset < headerSize {
                let byte = UInt64(bytes[used])
                header |= byte << UInt64(offset * 8)
                offset += 1
                used += 1
                if offset == headerSize, header & ~lastBlock != index {
                    isCorrupt = true
                }
            } else {
                let phase = (offset - headerSize) % patternPeriod
                let length = min(bytes.count - used, blockSize - offset, patternPeriod - phase)
                if memcmp(bytes.baseAddress! + used, pattern + phase, length) != 0 {
                    isCorrupt = true
                }
                offset += length
                used += length
            }
            if offset == blockSize {
                isFinished = header & lastBlock != 0
                offset = 0
                header = 0
                index += 1
            }
        }
        total += UInt64(used)
        return used
    }
}
