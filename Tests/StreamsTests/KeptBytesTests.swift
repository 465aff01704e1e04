import TestPeers
import Testing

@testable import Streams

/// What is kept of what was sent, by whoever may have to send it again.
@Suite struct KeptBytesTests {
    private static func fill(_ buffer: Buffer, _ count: Int, from first: Int) -> UnsafeRawBufferPointer {
        let start = buffer.writeIndex
        for offset in 0..<count {
            buffer.base.storeBytes(of: UInt8((first + offset) % 251), toByteOffset: start + offset, as: UInt8.self)
        }
        buffer.writeIndex += count
        return UnsafeRawBufferPointer(start: buffer.base + start, count: count)
    }

    private static func contents(_ kept: KeptBytes, from offset: Int = 0) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: kept.count) { space, count in
            count = kept.copy(from: offset, into: UnsafeMutableRawBufferPointer(space))
        }
    }

    private static func expected(_ range: Range<Int>) -> [UInt8] { range.map { UInt8($0 % 251) } }

    @Test("a large piece stays where it is, and its buffer is back in the pool when it is not needed any more")
    func shares() {
        let pool = BufferPool()
        var kept = KeptBytes(pool: pool)
        let buffer = pool.take(.large)
        kept.append(Self.fill(buffer, 60_000, from: 0), in: buffer)
        buffer.writeIndex += 13
        kept.append(Self.fill(buffer, 60_000, from: 60_000), in: buffer)
        #expect(kept.count == 120_000 && kept.capacity == BufferSize.large.rawValue && pool.buffersInUse == 2)
        // Its owner has sent it, and takes another one.
        pool.give(buffer)
        let next = pool.take(.large)
        #expect(next !== buffer)
        kept.append(Self.fill(next, 60_000, from: 120_000), in: next)
        pool.give(next)
        #expect(kept.capacity == 2 * BufferSize.large.rawValue && pool.buffersInUse == 2)
        #expect(Self.contents(kept) == Self.expected(0..<180_000))
        #expect(Self.contents(kept, from: 60_001) == Self.expected(60_001..<180_000))
        kept.consume(119_999)
        #expect(pool.buffersInUse == 2)
        kept.consume(1)
        #expect(pool.buffersInUse == 1 && kept.capacity == BufferSize.large.rawValue)
        #expect(pool.take(.large) === buffer)
        pool.give(buffer)
        kept.removeAll()
        #expect(kept.isEmpty && kept.capacity == 0 && pool.buffersInUse == 0)
    }

    /// One that was kept is in no cache of the processor any more.
    @Test("a buffer that was kept is the next to be kept, and one that was not is for whoever gives it back at once")
    func aged() {
        let pool = BufferPool()
        var kept = KeptBytes(pool: pool)
        let (first, second) = (pool.take(.large), pool.takeToKeep())
        kept.append(Self.fill(first, 20_000, from: 0), in: first)
        pool.give(first)
        pool.give(second)
        kept.removeAll()
        #expect(pool.takeToKeep() === first && pool.take(.large) === second && pool.buffersInUse == 2)
        pool.give(second)
        pool.give(first)
        // Nobody has kept it this time.
        #expect(pool.take(.large) === first && pool.takeToKeep() === second)
    }

    @Test("as many buffers wait in the pool as are kept, so that none is allocated anew, and few in the end")
    func retention() {
        let pool = BufferPool()
        var kept = KeptBytes(pool: pool)
        let buffers = (0..<40).map { _ in pool.takeToKeep() }
        for buffer in buffers {
            kept.append(Self.fill(buffer, 20_000, from: 0), in: buffer)
            pool.give(buffer)
        }
        kept.consume(20 * 20_000)
        let again = (0..<20).map { _ in pool.takeToKeep() }
        #expect(again.allSatisfy { buffer in buffers.contains { $0 === buffer } })
        for buffer in again {
            kept.append(Self.fill(buffer, 20_000, from: 0), in: buffer)
            pool.give(buffer)
        }
        kept.removeAll()
        #expect(pool.buffersInUse == 0)
        let last = (0..<40).map { _ in pool.takeToKeep() }
        #expect(last.count { buffer in buffers.contains { $0 === buffer } } == 8)
    }

    @Test("whoever holds a buffer longer than its owner is the one who gives it back", arguments: [true, false])
    func order(ownerFirst: Bool) {
        let pool = BufferPool()
        var kept = KeptBytes(pool: pool)
        let buffer = pool.take(.large)
        kept.append(Self.fill(buffer, 20_000, from: 0), in: buffer)
        if ownerFirst { pool.give(buffer) } else { kept.removeAll() }
        #expect(pool.buffersInUse == 1 && pool.take(.large) !== buffer)
        if ownerFirst { kept.removeAll() } else { pool.give(buffer) }
        #expect(pool.take(.large) === buffer)
    }

    @Test("two that keep the same buffer count it once, and the last one gives it back") func twoHolders() {
        let pool = BufferPool()
        var (one, other) = (KeptBytes(pool: pool), KeptBytes(pool: pool))
        let buffer = pool.take(.large)
        one.append(Self.fill(buffer, 20_000, from: 0), in: buffer)
        other.append(Self.fill(buffer, 20_000, from: 7), in: buffer)
        one.append(Self.fill(buffer, 20_000, from: 20_000), in: buffer)
        pool.give(buffer)
        #expect(one.capacity + other.capacity == BufferSize.large.rawValue)
        one.removeAll()
        #expect(one.capacity + other.capacity == BufferSize.large.rawValue)
        #expect(Self.contents(other) == Self.expected(7..<20_007))
        #expect(pool.take(.large) !== buffer)
        other.removeAll()
        #expect(one.capacity + other.capacity == 0)
        #expect(pool.take(.large) === buffer)
    }

    @Test("whatever is appended, reserved, shared and dropped: the bytes are those, and no buffer is left out")
    func fuzz() {
        var fuzzer = Fuzzer("kept bytes")
        let pool = BufferPool()
        for _ in 0..<200 {
            var kept = KeptBytes(pool: pool)
            var (front, back) = (0, 0)
            var staging = pool.take(.large)
            for _ in 0..<60 {
                switch fuzzer.below(6) {
                case 0:
                    let count = fuzzer.below(fuzzer.below(4) == 0 ? 100_000 : 2000)
                    Self.expected(back..<back + count).withUnsafeBytes { kept.append($0) }
                    back += count
                case 1:
                    let space = kept.reserve(expecting: 1 + fuzzer.below(5000))
                    let dropped = fuzzer.below(back - front + 1)
                    kept.consume(dropped)
                    front += dropped
                    let count = fuzzer.below(min(space.count, 3000) + 1)
                    for index in 0..<count { space[index] = UInt8((back + index) % 251) }
                    kept.commit(count)
                    back += count
                case 2, 3:
                    let count = min(1 + fuzzer.below(70_000), staging.writableBytes)
                    guard count > 0 else { break }
                    kept.append(Self.fill(staging, count, from: back), in: staging)
                    back += count
                    if fuzzer.below(3) == 0 { staging.writeIndex = min(staging.capacity, staging.writeIndex + 13) }
                case 4:
                    pool.give(staging)
                    staging = pool.take(.large)
                default:
                    let dropped = fuzzer.below(back - front + 1)
                    kept.consume(dropped)
                    front += dropped
                }
                #expect(kept.count == back - front)
                if kept.isEmpty { #expect(kept.capacity == 0) }
                let offset = fuzzer.below(back - front + 1)
                #expect(Self.contents(kept, from: offset) == Self.expected(front + offset..<back))
            }
            kept.removeAll()
            pool.give(staging)
            #expect(pool.buffersInUse == 0 && kept.capacity == 0)
        }
    }
}
