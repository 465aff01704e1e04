import CLinux
import Glibc
import Platform
import Streams

/// A byte stream over a Unix socket whose ends prove that they are ends.
///
/// A Unix socket has no reset: the end of a process that is killed looks like that of one that has said everything. So
/// bytes travel in frames: four bytes for the length, and so many bytes; zero is the end of a direction, and a length
/// with the highest bit set that of a text, why the stream was reset. A socket that ends without either was cut.
final class FramedStream: ByteStream, StreamObserver {
    private let socket: Socket
    /// Read before this stream had the socket.
    private var early: ArraySlice<UInt8>
    /// Of a frame's length, as far as it has come.
    private var header: [UInt8] = []
    /// Bytes of the frame that are still to come.
    private var left = 0
    private var hasEnded = false
    /// Bytes that the socket has not taken: of a length, or of the end.
    private var owed: [UInt8] = []
    /// Bytes of the frame that were announced, and not written yet.
    private var promised = 0
    private var isFinished = false
    private var isOver = false
    private var retained = Retained<FramedStream>()

    private static let failureBit: UInt32 = 1 << 31
    private static let longestReason = 4096

    /// - Parameter early: What was read of the socket already.
    init(_ socket: Socket, early: [UInt8]) {
        self.socket = socket
        self.early = early[...]
        super.init(loop: socket.loop)
        socket.observer = self
    }

    override var peerDescription: String { "the control socket" }

    // MARK: Reading

    override func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        guard failure == nil else { return .failed }
        guard !hasEnded else { return .end }
        guard !isOver else { return refuseRead() }
        while left == 0 {
            let result = readHeader()
            if let result { return result }
        }
        let result = take(into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<min(left, buffer.count)]))
        switch result {
        case .bytes(let count): left -= count
        case .end: return cut()
        case .failed: return lost()
        case .wouldBlock: break
        }
        return result
    }

    /// nil: there is a frame to read.
    private func readHeader() -> ReadResult? {
        while header.count < 4 {
            var byte: UInt8 = 0
            switch withUnsafeMutableBytes(of: &byte, { take(into: $0) }) {
            case .bytes: header.append(byte)
            case .wouldBlock: return .wouldBlock
            case .end: return cut()
            case .failed: return lost()
            }
        }
        let value = header.reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
        header.removeAll(keepingCapacity: true)
        if value == 0 {
            hasEnded = true
            return .end
        }
        guard value & Self.failureBit != 0 else {
            left = Int(value)
            return nil
        }
        fail(StreamError(.reset, readReason(Int(value & ~Self.failureBit))))
        return .failed
    }

    /// It was sent in one piece, and nothing follows it.
    private func readReason(_ count: Int) -> String {
        var text: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: max(1, min(count, Self.longestReason)))
        while text.count < min(count, Self.longestReason) {
            guard case .bytes(let read) = chunk.withUnsafeMutableBytes({ take(into: $0) }) else { break }
            text += chunk[..<read]
        }
        return Printable.cleanText(String(decoding: text, as: UTF8.self))
    }

    private func take(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        guard !early.isEmpty else { return socket.read(into: buffer) }
        let count = min(early.count, buffer.count)
        early.prefix(count).withUnsafeBytes { buffer.copyMemory(from: UnsafeRawBufferPointer($0)) }
        early = early.dropFirst(count)
        return .bytes(count)
    }

    private func cut() -> ReadResult {
        fail(StreamError(.truncated, "the process at the other end of the control socket has gone"))
        return .failed
    }

    private func lost() -> ReadResult {
        fail(socket.failure ?? .closed(socket))
        return .failed
    }

    // MARK: Writing

    override func write(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        guard failure == nil, !isOver, !isFinished else { return refuseWrite() }
        switch payOwed() {
        case .failed: return lostWrite()
        case .wouldBlock: return .wouldBlock
        case .bytes: break
        }
        let offered = vectors.reduce(0) { $0 + $1.iov_len }
        guard offered > 0 else { return .bytes(0) }
        // The rest of a frame that was announced comes first.
        var done = 0
        if promised > 0 {
            let count = min(promised, offered)
            switch send([], vectors, from: 0, count) {
            case .bytes(let written):
                promised -= written
                done = written
                if written < count || done == offered { return .bytes(done) }
            case .wouldBlock: return .wouldBlock
            case .failed: return lostWrite()
            }
        }
        let count = min(offered - done, Int(Int32.max))
        let length = Self.bytes(of: UInt32(count))
        switch send(length, vectors, from: done, count) {
        case .bytes(let written) where written < length.count:
            owed = Array(length[written...])
            promised = count
        case .bytes(let written):
            done += written - length.count
            promised = count - (written - length.count)
        case .wouldBlock: break
        case .failed: return done > 0 ? .bytes(done) : lostWrite()
        }
        return done > 0 ? .bytes(done) : .wouldBlock
    }

    private func lostWrite() -> WriteResult {
        // What the other side says last is why.
        readLastWords()
        fail(socket.failure ?? .closed(socket))
        return .failed
    }

    /// `head`, and so many bytes of the vectors.
    private func send(
        _ head: [UInt8],
        _ vectors: UnsafeBufferPointer<iovec>,
        from start: Int,
        _ count: Int
    ) -> WriteResult {
        head.withUnsafeBytes { head in
            var pieces: [iovec] = []
            if let base = head.baseAddress, !head.isEmpty {
                pieces.append(iovec(iov_base: UnsafeMutableRawPointer(mutating: base), iov_len: head.count))
            }
            var (skipped, left) = (start, count)
            for vector in vectors where left > 0 {
                guard skipped < vector.iov_len else {
                    skipped -= vector.iov_len
                    continue
                }
                let length = min(vector.iov_len - skipped, left)
                pieces.append(iovec(iov_base: vector.iov_base + skipped, iov_len: length))
                left -= length
                skipped = 0
            }
            return pieces.withUnsafeBufferPointer { socket.write($0) }
        }
    }

    /// `.bytes` once nothing is owed.
    private func payOwed() -> WriteResult {
        while !owed.isEmpty {
            switch owed.withUnsafeBytes({ socket.write($0) }) {
            case .bytes(let count): owed.removeFirst(count)
            case .wouldBlock: return .wouldBlock
            case .failed: return .failed
            }
        }
        return .bytes(0)
    }

    private static func bytes(of value: UInt32) -> [UInt8] {
        [UInt8(truncatingIfNeeded: value >> 24), UInt8(truncatingIfNeeded: value >> 16)]
            + [UInt8(truncatingIfNeeded: value >> 8), UInt8(truncatingIfNeeded: value)]
    }

    // MARK: Ends

    override func finish() {
        guard !isFinished, !isOver, failure == nil else { return }
        // The rest of a frame that was announced will not come.
        guard promised == 0 else { return reset(StreamError(.closed, "ended in the middle of a frame")) }
        isFinished = true
        owed += Self.bytes(of: 0)
        if case .bytes = payOwed() { socket.finish() }
    }

    override func reset(_ reason: StreamError) {
        guard !isOver else { return }
        isOver = true
        if failure == nil, !isFinished, promised == 0, owed.isEmpty {
            let text = Array(reason.message.utf8.prefix(Self.longestReason))
            let frame = Self.bytes(of: UInt32(text.count) | Self.failureBit) + text
            _ = frame.withUnsafeBytes { socket.write($0) }
        }
        fail(reason)
        // In order, since there is no other way to have the frame arrive.
        socket.finish()
        socket.close()
        retained.release()
    }

    override func close() {
        guard !isOver else { return }
        guard isFinished, hasEnded else { return reset(.closed(self)) }
        isOver = true
        fail(.closedByOwner)
        // The end may still have to wait for its turn.
        guard owed.isEmpty else { return retained.hold(self) }
        socket.close()
    }

    // MARK: StreamObserver

    func streamReadable(_ stream: ByteStream) { if !isOver { observer?.streamReadable(self) } }

    func streamWritable(_ stream: ByteStream) {
        guard isFinished else { return isOver ? () : observer?.streamWritable(self) ?? () }
        guard case .bytes = payOwed() else { return }
        socket.finish()
        guard retained.isHeld else { return }
        socket.close()
        retained.release()
    }

    func streamFailed(_ stream: ByteStream) {
        guard !isOver else { return retained.release() }
        readLastWords()
        fail(socket.failure ?? .closed(socket))
        observer?.streamFailed(self)
    }

    /// Looks for a reason among what is left to read, and drops the rest.
    private func readLastWords() {
        var chunk = [UInt8](repeating: 0, count: 16 << 10)
        while failure == nil, !hasEnded {
            guard case .bytes = chunk.withUnsafeMutableBytes({ read(into: $0) }) else { return }
        }
    }
}
