import CLinux
import Logging
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshPaths

/// A resumable stream that waits for its connection's turn, and loses the connection.
@Suite(.timeLimit(.minutes(5))) struct CarriedTurnTests {
    /// Who writes into the stream. Confined to its loop.
    private final class Writer: StreamObserver {
        var wakes = 0

        func streamReadable(_ stream: ByteStream) {}
        func streamWritable(_ stream: ByteStream) { wakes += 1 }
        func streamFailed(_ stream: ByteStream) {}
    }

    private struct Parts {
        let far: LoopBound<LoopBridge>
        let resumptions: Resumptions
        let stream: ResumableStream
        let writer: Writer
        let carried: CarriedStreams<ResumableStream>
    }

    private static let limit = 256 << 10

    private func write(_ count: Int, to stream: ResumableStream) -> WriteResult {
        [UInt8](repeating: 7, count: count).withUnsafeBytes { stream.write($0) }
    }

    /// What the streams of a connection may keep together is used up, and the connection goes: nothing is acknowledged
    /// before there is another one, so that nothing else would ever tell the writer that it may go on.
    @Test("who waits for a turn goes on when the connection is lost that it was to be a turn of")
    func leaving() async throws {
        let loop = EventLoop(name: "turn")
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
            let writer = Writer()
            stream.observer = writer
            let carried = CarriedStreams<ResumableStream>(on: loop, limit: Self.limit)
            stream.carried = carried
            #expect(write(Self.limit, to: stream) == .bytes(Self.limit))
            #expect(write(1, to: stream) == .wouldBlock)
            #expect(stream.carriedPart.isWaiting && !stream.isOutOfRoom && carried.kept == Self.limit)
            return LoopBound(
                Parts(far: far, resumptions: resumptions, stream: stream, writer: writer, carried: carried),
                on: loop
            )
        }
        try await loop.execute {
            parts.withValue { parts in
                #expect(parts.writer.wakes == 0)
                parts.far.withValue { $0.reset(StreamError(.reset, "cut")) }
            }
        }
        try await eventually("the stream waits for another carrier") {
            try await loop.execute { parts.withValue { !$0.stream.isAttached } }
        }
        // It tells in its next turn.
        try await loop.execute {}
        try await loop.execute {
            parts.withValue { parts in
                #expect(parts.writer.wakes == 1)
                #expect(write(1, to: parts.stream) == .bytes(1))
                #expect(parts.carried.kept == 0 && !parts.stream.carriedPart.isWaiting)
                parts.resumptions.shutDown()
            }
        }
        await loop.shutDown()
    }
}
