import CLinux
import Logging
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshPaths

/// A resumable stream over a carrier of another event loop, which a relay joins with it.
@Suite(.timeLimit(.minutes(10))) struct ResumptionCarrierTests {
    /// The owner's end. Confined to its loop.
    private final class Sink: ByteStream {
        var onWrite: ((Int) -> Void)?
        private(set) var taken = 0

        override func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult { .wouldBlock }

        override func write(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
            let count = vectors.reduce(0) { $0 + $1.iov_len }
            taken += count
            onWrite?(taken)
            return .bytes(count)
        }

        override func finish() {}
        override func reset(_ reason: StreamError) {}
        override func close() {}
    }

    private struct Parts {
        let carrier: LoopBridge
        let far: LoopBound<LoopBridge>
        let resumptions: Resumptions
        let stream: ResumableStream
        let sink: Sink
    }

    /// What arrives makes an acknowledgement due, and meanwhile the other loop has reset the carrier: that is found out
    /// where the acknowledgement is written, which is not inside of the write that brought the bytes.
    @Test("a carrier that dies while its bytes are taken keeps its buffer until they are") func death() async throws {
        let loop = EventLoop(name: "test")
        let size = 160 << 10
        let destination = try Authority(parsing: "db.mesh:1")
        let parts = try await loop.execute {
            let quiet = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
            let near = LoopBridge(on: loop, to: "the carrier")
            let far = near.makeFarEnd(on: loop)
            let resumptions = Resumptions(on: loop, logger: quiet)
            let stream = ResumableStream(
                over: near,
                to: destination,
                isClient: false,
                of: resumptions,
                in: resumptions
            )
            let sink = Sink(loop: loop)
            sink.onWrite = { taken in
                if taken == size { far.withValue { $0.reset(StreamError(.reset, "cut")) } }
            }
            Relay(stream, sink).start()
            var frame = [UInt8](repeating: 7, count: ResumptionFrame.headerSize + size)
            frame.withUnsafeMutableBytes { ResumptionFrame.writeData(size, to: $0) }
            let written = far.withValue { far in frame.withUnsafeBytes { far.write($0) } }
            #expect(written == .bytes(frame.count))
            return LoopBound(
                Parts(carrier: near, far: far, resumptions: resumptions, stream: stream, sink: sink),
                on: loop
            )
        }
        try await eventually("the stream waits for another carrier") {
            try await loop.execute { parts.withValue { !$0.stream.isAttached } }
        }
        try await loop.execute {
            parts.withValue { #expect($0.sink.taken == size) }
            for size in BufferSize.allCases {
                let buffer = loop.buffers.take(size)
                #expect(buffer.readIndex == 0 && buffer.writeIndex == 0, "a buffer was used after it was given back")
                loop.buffers.give(buffer)
            }
            parts.withValue { $0.resumptions.shutDown() }
        }
        await loop.shutDown()
    }
    /// Of a stream whose reader does nothing, bytes wait here that HTTP/2 counts no longer: many such streams hold what
    /// is there for one peer, and little more, and go on when they are read.
    @Test("streams that nobody reads hold no more than the memory there is") func paused() async throws {
        let loop = EventLoop(name: "test")
        let (memory, size, many) = (1 << 20, 250 << 10, 64)
        let directory = ResumptionDirectory(memory: memory)
        let destination = try Authority(parsing: "db.mesh:1")
        struct Streams {
            let resumptions: Resumptions
            var all: [(far: LoopBound<LoopBridge>, stream: ResumableStream)] = []
            var read: [Int] = []
        }
        let streams = try await loop.execute {
            let quiet = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
            var streams = Streams(resumptions: Resumptions(on: loop, directory: directory, logger: quiet))
            for _ in 0..<many {
                let near = LoopBridge(on: loop, to: "the carrier")
                let far = near.makeFarEnd(on: loop)
                let stream = ResumableStream(
                    over: near,
                    to: destination,
                    isClient: false,
                    of: streams.resumptions,
                    in: streams.resumptions
                )
                var frame = [UInt8](repeating: 7, count: ResumptionFrame.headerSize + size)
                frame.withUnsafeMutableBytes { ResumptionFrame.writeData(size, to: $0) }
                #expect(far.withValue { far in frame.withUnsafeBytes { far.write($0) } } == .bytes(frame.count))
                streams.all.append((far, stream))
                streams.read.append(0)
            }
            return LoopBound(Box(streams), on: loop)
        }
        for _ in 0..<200 { try await loop.execute {} }
        #expect(directory.held > memory / 2 && directory.held < 3 * memory, "\(directory.held)")
        try await eventually("everything is read") {
            try await loop.execute {
                streams.withValue { box in
                    var buffer = [UInt8](repeating: 0, count: 65536)
                    for (index, each) in box.value.all.enumerated() {
                        while case .bytes(let count) = buffer.withUnsafeMutableBytes({ each.stream.read(into: $0) }) {
                            box.value.read[index] += count
                        }
                    }
                    return box.value.read.allSatisfy { $0 == size }
                }
            }
        }
        #expect(directory.held < memory)
        try await loop.execute { streams.withValue { $0.value.resumptions.shutDown() } }
        await loop.shutDown()
    }

    /// Whoever opens streams and cuts their connections has so many of them wait, and no more: what comes then is
    /// reset, what waits goes on waiting, and what has a carrier is not touched.
    @Test("a peer that cuts streams without end has no more wait than its share") func flood() async throws {
        let loop = EventLoop(name: "test")
        let directory = ResumptionDirectory(detached: 100, detachedOfPeer: 3)
        let refusals = Lock(0)
        let destination = try Authority(parsing: "db.mesh:1")
        struct Streams {
            let resumptions: Resumptions
            var all: [(far: LoopBound<LoopBridge>, stream: ResumableStream)] = []
        }
        let streams = try await loop.execute {
            let logger = Logger(label: "test") { _ in Counter(words: "too many streams wait", count: refusals) }
            var streams = Streams(resumptions: Resumptions(on: loop, directory: directory, logger: logger))
            for _ in 0..<8 {
                let near = LoopBridge(on: loop, to: "the carrier")
                let far = near.makeFarEnd(on: loop)
                let stream = ResumableStream(
                    over: near,
                    to: destination,
                    isClient: false,
                    of: streams.resumptions,
                    in: streams.resumptions
                )
                streams.all.append((far, stream))
            }
            return LoopBound(Box(streams), on: loop)
        }
        func cut(_ range: Range<Int>) async throws {
            try await loop.execute {
                streams.withValue { box in
                    for (far, _) in box.value.all[range] {
                        far.withValue { $0.reset(StreamError(.truncated, "cut")) }
                    }
                }
            }
            try await eventually("\(range) have no carrier") {
                try await loop.execute {
                    streams.withValue { $0.value.all[range].allSatisfy { !$0.stream.isAttached } }
                }
            }
        }
        try await cut(0..<3)
        #expect(directory.detached == 3 && refusals.withLock { $0 } == 0)
        try await cut(3..<6)
        #expect(directory.detached == 3 && refusals.withLock { $0 } == 3)
        let states = try await loop.execute {
            streams.withValue {
                $0.value.all.map { ($0.stream.isOver, $0.stream.failure != nil, $0.stream.isAttached) }
            }
        }
        for (number, (isOver, hasFailed, isAttached)) in states.enumerated() {
            #expect(isOver == (3..<6).contains(number) && hasFailed == isOver, "\(number)")
            #expect(isAttached == (number >= 6), "\(number)")
        }
        // One that goes on makes room for another one.
        try await loop.execute {
            try streams.withValue { box in
                let carrier = LoopBridge(on: loop, to: "the next carrier")
                box.value.all[0].far = carrier.makeFarEnd(on: loop)
                try box.value.all[0].stream.attach(carrier, generation: 1, position: 0, because: "test")
            }
        }
        #expect(directory.detached == 2)
        try await cut(6..<7)
        #expect(directory.detached == 3 && refusals.withLock { $0 } == 3)
        try await loop.execute { streams.withValue { $0.value.resumptions.shutDown() } }
        #expect(directory.detached == 0)
        await loop.shutDown()
    }

    /// Counts lines with these words.
    private struct Counter: LogHandler {
        let words: String
        let count: Lock<Int>
        var metadata: Logger.Metadata = [:]
        var logLevel = Logger.Level.warning

        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }

        func log(event: LogEvent) {
            if "\(event.message)".contains(words) { count.withLock { $0 += 1 } }
        }
    }

    private final class Box<Value> {
        var value: Value
        init(_ value: Value) { self.value = value }
    }
}
