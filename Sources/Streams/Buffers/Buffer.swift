/// How large a pooled buffer is.
package enum BufferSize: Int, CaseIterable, Sendable {
    /// 4 KiB: a keystroke, a request, what is left over of a small write.
    case small = 4096
    /// 64 KiB: a DATA frame.
    case medium = 65536
    /// 256 KiB: a batch of frames or records, the unit of work of the hot path.
    case large = 262_144
}

/// A piece of raw memory with a read and a write position. Comes from a ``BufferPool`` and goes back there.
// Usable from inline, so that the accessors below are inlined in other modules, too: every batch and every frame asks
// them.
@usableFromInline package final class Buffer {
    @usableFromInline package let base: UnsafeMutableRawPointer
    @usableFromInline package let capacity: Int
    package let size: BufferSize
    /// Where the next byte is read; `0...writeIndex`.
    @usableFromInline package var readIndex = 0
    /// Where the next byte is written; `readIndex...capacity`.
    @usableFromInline package var writeIndex = 0
    /// Who keeps it beside its owner: it is back in its pool when all of them have given it.
    fileprivate var holders = 0
    /// Of those, queues that keep bytes in it: its memory counts once for all of them.
    var keepers = 0
    /// Somebody has kept it beside its owner since it was taken.
    fileprivate var wasKept = false

    init(size: BufferSize) {
        self.size = size
        capacity = size.rawValue
        base = .allocate(byteCount: capacity, alignment: 64)
    }

    deinit { base.deallocate() }

    @inlinable package var readableBytes: Int { writeIndex - readIndex }
    @inlinable package var writableBytes: Int { capacity - writeIndex }

    /// What has been written and not yet read.
    @inlinable package var readable: UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: base + readIndex, count: readableBytes)
    }

    /// The free space behind what has been written.
    @inlinable package var writable: UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(start: base + writeIndex, count: writableBytes)
    }

    /// Whether all of `bytes` are in it.
    package func holds(_ bytes: UnsafeRawBufferPointer) -> Bool {
        guard let start = bytes.baseAddress else { return false }
        let offset = start - UnsafeRawPointer(base)
        return offset >= 0 && offset + bytes.count <= capacity
    }

    /// Forgets the contents.
    @inlinable package func reset() {
        readIndex = 0
        writeIndex = 0
    }
}

/// Keeps buffers for reuse: allocations above 128 KiB would otherwise be mapped and unmapped each time. Confined to its
/// event loop.
///
/// What is taken is meant to be given back as soon as it is empty, so that idle streams hold no memory; the pool keeps
/// a few of each size, enough for the turn of a busy loop, and frees the rest.
package final class BufferPool {
    private var small: ContiguousArray<Buffer> = []
    private var medium: ContiguousArray<Buffer> = []
    private var large: ContiguousArray<Buffer> = []
    /// Large ones that were kept beside their owners: the processor's caches have forgotten them.
    private var aged: ContiguousArray<Buffer> = []
    /// Buffers that are kept now.
    private var keptCount = 0

    /// Buffers that are out, for tests and metrics; one that is shared counts for each who has it.
    package private(set) var buffersInUse = 0

    /// 64 × 4 KiB, 16 × 64 KiB and 8 × 256 KiB: 3.3 MiB per loop at most. While buffers are kept, as many large ones
    /// more as those: they come back and are taken again with each acknowledgement.
    private static func kept(_ size: BufferSize) -> Int {
        switch size {
        case .small: 64
        case .medium: 16
        case .large: 8
        }
    }

    init() {}

    /// An empty buffer, owned by the caller until ``give(_:)``.
    package func take(_ size: BufferSize) -> Buffer {
        buffersInUse += 1
        let kept =
            switch size {
            case .small: small.popLast()
            case .medium: medium.popLast()
            case .large: large.popLast() ?? aged.popLast()
            }
        return kept ?? Buffer(size: size)
    }

    /// A large one whose contents may be kept for a while. It is one that was kept before, where there is one: those
    /// that are still in the processor's caches are for whoever gives them back at once.
    package func takeToKeep() -> Buffer {
        guard let buffer = aged.popLast() else { return take(.large) }
        buffersInUse += 1
        return buffer
    }

    /// One more keeps a buffer that is out, and calls ``give(_:)`` as its owner does. What has been written there stays
    /// until the last of them has; nobody but the owner writes.
    package func share(_ buffer: Buffer) {
        buffersInUse += 1
        buffer.holders += 1
        guard !buffer.wasKept else { return }
        buffer.wasKept = true
        keptCount += 1
    }

    /// Returns a buffer. The caller must not use it any more.
    package func give(_ buffer: consuming Buffer) {
        buffersInUse -= 1
        guard buffer.holders == 0 else {
            buffer.holders -= 1
            return
        }
        buffer.reset()
        if buffer.wasKept {
            buffer.wasKept = false
            keptCount -= 1
            if buffer.size == .large { return giveAged(buffer) }
        }
        let limit = Self.kept(buffer.size)
        switch buffer.size {
        case .small: if small.count < limit { small.append(buffer) }
        case .medium: if medium.count < limit { medium.append(buffer) }
        case .large: if large.count < limit { large.append(buffer) }
        }
    }

    private func giveAged(_ buffer: Buffer) {
        aged.append(buffer)
        let limit = max(keptCount, Self.kept(.large) - large.count)
        // One by one, as they come back: nothing is allocated and freed again and again while the number varies.
        for _ in 0..<2 where aged.count > limit { aged.removeFirst() }
    }
}
