import CLinux
import Glibc
import Streams
import TestPeers

/// A stream that answers as it is told, for what no real peer does on demand.
final class ScriptedStream: ByteStream {
    /// Answers to reads, in order; then `wouldBlock`.
    var reads: [ReadResult] = []
    /// What the next writes answer; then everything is taken.
    var writes: [WriteResult] = []
    /// What a read or write that answers `failed` sets.
    var readFailure: StreamError?
    private(set) var events: [String] = []
    var onRead: (() -> Void)?

    override func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        onRead?()
        let result = reads.isEmpty ? .wouldBlock : reads.removeFirst()
        if result == .failed, let readFailure { fail(readFailure) }
        guard case .bytes(let count) = result else { return result }
        return .bytes(min(count, buffer.count))
    }

    override func write(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        var offered = 0
        for vector in vectors { offered += vector.iov_len }
        return writes.isEmpty ? .bytes(offered) : writes.removeFirst()
    }

    override func finish() { events.append("finish") }
    override func reset(_ reason: StreamError) { events.append("reset \(reason.code)") }
    override func close() { events.append("close") }
}

/// A memory stream with the direct paths of ``ByteStream/push(to:for:)`` and ``ByteStream/pull(from:for:)``, as an
/// HTTP/2 stream has them.
final class DirectStream: ByteStream, StreamObserver {
    let inner: MemoryStream
    private var pushPump: Pump?
    private var sink: ByteStream?
    private var pullPump: Pump?
    private var source: ByteStream?
    private var toSink: [UInt8] = []
    private var toInner: [UInt8] = []
    private(set) var usedPush = false
    private(set) var usedPull = false

    init(over inner: MemoryStream) {
        self.inner = inner
        super.init(loop: inner.loop)
        inner.observer = self
    }

    override func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult { inner.read(into: buffer) }
    override func write(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult { inner.write(vectors) }
    override func finish() { inner.finish() }

    override func reset(_ reason: StreamError) {
        letGo()
        fail(reason)
        inner.reset(reason)
    }

    override func close() {
        letGo()
        inner.close()
    }

    override func push(to sink: ByteStream, for pump: Pump) -> Bool {
        usedPush = true
        self.sink = sink
        pushPump = pump
        movePush()
        return true
    }

    override func pull(from source: ByteStream, for pump: Pump) -> Bool {
        usedPull = true
        self.source = source
        pullPump = pump
        movePull()
        return true
    }

    override func sinkBecameWritable() { movePush() }
    override func sourceBecameReadable() { movePull() }

    func streamReadable(_ stream: ByteStream) { movePush() }
    func streamWritable(_ stream: ByteStream) { movePull() }

    func streamFailed(_ stream: ByteStream) {
        fail(inner.failure ?? .closed(self))
        if let pump = pushPump ?? pullPump { pump.failed(failure ?? .closed(self)) }
    }

    private func letGo() {
        pushPump = nil
        pullPump = nil
        sink = nil
        source = nil
    }

    private func movePush() {
        while let pump = pushPump, let sink {
            switch Self.move(&toSink, from: inner, to: sink, pump) {
            case .waits: return
            case .ended:
                pushPump = nil
                sink.finish()
                pump.sourceEnded()
            case .failed(let error):
                pushPump = nil
                pump.failed(error)
            }
        }
    }

    private func movePull() {
        while let pump = pullPump, let source {
            switch Self.move(&toInner, from: source, to: inner, pump) {
            case .waits: return
            case .ended:
                pullPump = nil
                finish()
                pump.sourceEnded()
            case .failed(let error):
                pullPump = nil
                pump.failed(error)
            }
        }
    }

    private enum Move {
        case waits
        case ended
        case failed(StreamError)
    }

    private static func move(_ kept: inout [UInt8], from source: ByteStream, to sink: ByteStream, _ pump: Pump) -> Move
    {
        while true {
            if !kept.isEmpty {
                switch kept.withUnsafeBytes({ sink.write($0) }) {
                case .bytes(let count):
                    kept.removeFirst(count)
                    pump.moved(count)
                    if !kept.isEmpty { return .waits }
                case .wouldBlock: return .waits
                case .failed: return .failed(sink.failure ?? .closed(sink))
                }
            }
            let (result, bytes) = source.readBytes(3000)
            switch result {
            case .bytes: kept = bytes
            case .wouldBlock: return .waits
            case .end: return .ended
            case .failed: return .failed(source.failure ?? .closed(source))
            }
        }
    }
}
