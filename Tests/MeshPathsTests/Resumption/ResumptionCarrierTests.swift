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

    private final class Box<Value> {
        var value: Value
        init(_ value: Value) { self.value = value }
    }
}
