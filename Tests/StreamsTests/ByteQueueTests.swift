import CLinux
import TestPeers
import Testing

@testable import Streams

@Suite("ByteQueue and BufferPool", .timeLimit(.minutes(10)))
struct ByteQueueTests {
    @Test("behaves like an array under random operations, and an empty queue holds no buffer", arguments: 0..<6)
    func model(seed: UInt64) {
        let pool = BufferPool()
        var queue = ByteQueue(pool: pool)
        var model: [UInt8] = []
        var random = SplitMix64(state: seed)
        var next: UInt8 = 0
        func bytes(_ count: Int) -> [UInt8] {
            (0..<count).map { _ in
                next &+= 1
                return next
            }
        }
        for _ in 0..<400 {
            switch Int.random(in: 0..<8, using: &random) {
            case 0, 1:
                let piece = bytes(Int.random(in: 0...(random.next() % 20 == 0 ? 80_000 : 1500), using: &random))
                piece.withUnsafeBytes { queue.append($0) }
                model += piece
            case 2:
                let space = queue.reserve(expecting: Int.random(in: 1...100_000, using: &random))
                #expect(!space.isEmpty)
                let piece = bytes(Int.random(in: 0...min(space.count, 1500), using: &random))
                space.copyBytes(from: piece)
                queue.commit(piece.count)
                model += piece
            case 3:
                // The reserved space must survive that everything before it leaves.
                let space = queue.reserve(expecting: 4096)
                let leaving =
                    Bool.random(using: &random) ? queue.count : Int.random(in: 0...queue.count, using: &random)
                queue.consume(leaving)
                model.removeFirst(leaving)
                let piece = bytes(min(space.count, 17))
                space.copyBytes(from: piece)
                queue.commit(piece.count)
                model += piece
            case 4:
                let length = Int.random(in: 0...queue.count, using: &random)
                queue.consume(length)
                model.removeFirst(length)
            case 5:
                var target = [UInt8](repeating: 0, count: Int.random(in: 0...20_000, using: &random))
                let count = target.withUnsafeMutableBytes { queue.read(into: $0) }
                #expect(count == min(target.count, model.count))
                #expect(target[..<count] == model[..<count])
                model.removeFirst(count)
            case 6:
                let gathered = queue.withVectors { vectors in
                    vectors.flatMap { Array(UnsafeRawBufferPointer(start: $0.iov_base, count: $0.iov_len)) }
                }
                #expect(gathered == Array(model.prefix(gathered.count)))
                #expect(gathered.isEmpty == model.isEmpty)
            default:
                if random.next() % 50 == 0 {
                    queue.removeAll()
                    model = []
                }
            }
            // #expect is too slow for every step.
            if queue.count != model.count || queue.front.first != model.first {
                Issue.record("the queue has \(queue.count) bytes, the model \(model.count)")
            }
            if model.isEmpty && pool.buffersInUse != 0 { Issue.record("an empty queue holds a buffer") }
        }
        queue.removeAll()
        #expect(pool.buffersInUse == 0)
    }

    @Test("a reservation that brought nothing gives its buffer back")
    func emptyCommit() {
        let pool = BufferPool()
        var queue = ByteQueue(pool: pool)
        _ = queue.reserve(expecting: 100)
        #expect(pool.buffersInUse == 1)
        queue.commit(0)
        #expect(pool.buffersInUse == 0)
        queue.commit(0)
        #expect(pool.buffersInUse == 0)
    }

    @Test("a queue keeps no reference to a buffer it gave back")
    func consumedBuffersAreReleased() {
        let pool = BufferPool()
        var queue = ByteQueue(pool: pool)
        let piece = [UInt8](repeating: 1, count: 65536)
        weak var first: Buffer?
        do {
            let buffer = pool.take(.medium)
            first = buffer
            pool.give(buffer)
        }
        // The queue's first buffer is the one that was just given back.
        for _ in 0..<20 { piece.withUnsafeBytes { queue.append($0) } }
        // The pool keeps 16 medium buffers and frees the others, unless somebody still holds them.
        let others = (0..<16).map { _ in pool.take(.medium) }
        for buffer in others { pool.give(buffer) }
        #expect(first != nil)
        queue.consume(65536)
        #expect(first == nil)
        queue.removeAll()
        #expect(pool.buffersInUse == 0)
    }

    @Test("the pool reuses what it is given, empty, and keeps a bounded number")
    func poolReuse() {
        let pool = BufferPool()
        for size in BufferSize.allCases {
            let buffer = pool.take(size)
            #expect(buffer.capacity == size.rawValue)
            buffer.writeIndex = 100
            buffer.readIndex = 50
            #expect(buffer.readableBytes == 50)
            #expect(buffer.writableBytes == size.rawValue - 100)
            pool.give(buffer)
            let again = pool.take(size)
            #expect(again === buffer)
            #expect(again.readableBytes == 0)
            #expect(again.writableBytes == size.rawValue)
            pool.give(again)
        }
        weak var extra: Buffer?
        do {
            let many = (0..<9).map { _ in pool.take(.large) }
            #expect(pool.buffersInUse == 9)
            extra = many[8]
            for buffer in many { pool.give(buffer) }
        }
        #expect(pool.buffersInUse == 0)
        #expect(extra == nil)
    }
}
