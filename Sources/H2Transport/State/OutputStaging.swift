import Streams

/// Frames on their way to the layer below: collected in one buffer of 256 KiB, which is written with one call. A
/// connection with nothing to send holds no buffer.
struct OutputStaging {
    /// A connection sends at most this many full buffers before the others on its loop have a turn.
    static var buffersPerTurn: Int { 4 }
    static var frameHeaderLength: Int { 9 }
    /// Room in the buffer that is not worth another DATA frame.
    private static var leastRoom: Int { 512 }

    private let pool: BufferPool
    /// Whoever shares it keeps what is in it: what is staged is not written over before the buffer goes back.
    private(set) var buffer: Buffer?
    /// The rest of a control frame that did not fit; nghttp2 keeps it until the next call of mem_send.
    private var unsentControl = UnsafeRawBufferPointer(start: nil, count: 0)
    /// A flush is due at the end of the loop's turn.
    private(set) var isDirty = false
    /// Something did not fit into the buffer.
    private(set) var isFull = false
    /// The layer below takes no more, and will say when it does.
    private(set) var lowerIsFull = false

    init(pool: BufferPool) {
        self.pool = pool
    }

    /// There is something to send. Returns whether the loop has to be asked for a flush.
    mutating func markDirty() -> Bool {
        defer { isDirty = true }
        return !isDirty
    }

    /// Returns whether there is room below.
    mutating func beginFlush() -> Bool {
        isDirty = false
        return !lowerIsFull
    }

    mutating func lowerBecameWritable() { lowerIsFull = false }

    // MARK: To the layer below

    /// What waits for the layer below.
    var staged: UnsafeRawBufferPointer { buffer?.readable ?? UnsafeRawBufferPointer(start: nil, count: 0) }

    /// The layer below has taken `count` bytes of ``staged``; whatever it left means that it is full.
    mutating func wrote(_ count: Int) {
        guard let buffer else { return }
        buffer.readIndex += count
        lowerIsFull = buffer.readableBytes > 0
    }

    mutating func release() {
        if let buffer { pool.give(buffer) }
        buffer = nil
        unsentControl = UnsafeRawBufferPointer(start: nil, count: 0)
    }

    /// Everything staged was written: the buffer goes back.
    mutating func releaseEmpty() {
        guard let buffer else { return }
        self.buffer = nil
        pool.give(buffer)
    }

    // MARK: From nghttp2

    mutating func beginStaging() { isFull = false }

    /// A control frame, valid until nghttp2 is asked for the next one.
    mutating func append(control bytes: UnsafeRawBufferPointer) {
        unsentControl = bytes
        appendControl()
    }

    /// A control frame is copied; where it does not fit, its rest goes into the next buffer.
    mutating func appendControl() {
        guard let source = unsentControl.baseAddress, !unsentControl.isEmpty else { return }
        let buffer = obtainBuffer()
        let count = min(unsentControl.count, buffer.writableBytes)
        (buffer.base + buffer.writeIndex).copyMemory(from: source, byteCount: count)
        buffer.writeIndex += count
        unsentControl = UnsafeRawBufferPointer(rebasing: unsentControl[count...])
        if !unsentControl.isEmpty { isFull = true }
    }

    /// The payload that the next DATA frame may have, `limit` at most.
    func frameLength(limit: Int) -> Int {
        let room = (buffer?.writableBytes ?? BufferSize.large.rawValue) - Self.frameHeaderLength
        // At least one, which nghttp2 insists on; ``hasRoom()`` looks at the room again.
        return max(1, min(limit, room))
    }

    /// Whether another DATA frame is worth its header.
    mutating func hasRoom() -> Bool {
        if let buffer, buffer.writableBytes < Self.leastRoom { isFull = true }
        return !isFull
    }

    /// Where the payload of the next DATA frame goes, behind the place of its header.
    mutating func payloadSpace(_ length: Int) -> UnsafeMutableRawBufferPointer {
        let buffer = obtainBuffer()
        return UnsafeMutableRawBufferPointer(
            start: buffer.base + buffer.writeIndex + Self.frameHeaderLength,
            count: length
        )
    }

    /// The payload that was put in place gets its header.
    mutating func commit(header: UnsafePointer<UInt8>, length: Int) {
        let buffer = obtainBuffer()
        (buffer.base + buffer.writeIndex).copyMemory(from: header, byteCount: Self.frameHeaderLength)
        buffer.writeIndex += Self.frameHeaderLength + length
    }

    private mutating func obtainBuffer() -> Buffer {
        if let buffer { return buffer }
        let buffer = pool.takeToKeep()
        self.buffer = buffer
        return buffer
    }
}
