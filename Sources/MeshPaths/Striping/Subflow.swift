import CLinux
import Streams

/// One of the streams that carry a ``StripedStream``, and what is under way on it. Confined to its event loop.
final class Subflow {
    enum Head {
        /// Bytes of the other side's preface are still to come, so many.
        case greeting(Int)
        /// So many bytes of a frame's header have come.
        case header(Int)
        /// A frame has begun.
        case frame(sequence: UInt32, left: Int)
    }

    enum Progress {
        case frame(sequence: UInt32)
        case nothing
        /// The other side has ended this subflow between two frames.
        case ended
        /// It has broken the rules or the connection.
        case failed(StreamError)
    }

    let stream: ByteStream
    /// What the stream has not taken yet of a frame that was begun.
    private(set) var unsent: ByteQueue
    private(set) var head: Head
    /// Of ``stream``, as its user sees them. It is read at once.
    private var ends = StreamEnds(readerWaits: false)
    /// The greeting or the header, as far as it has come.
    private var buffer: UInt64 = 0

    /// - Parameters:
    ///   - stream: Connected; this object owns it from now on.
    ///   - greeting: What is sent before anything else.
    ///   - expectsGreeting: The other side sends ``StripePreface/magic`` before anything else.
    init(_ stream: ByteStream, greeting: [UInt8], expectsGreeting: Bool) {
        self.stream = stream
        unsent = ByteQueue(pool: stream.loop.buffers)
        head = expectsGreeting ? .greeting(StripePreface.magic.count) : .header(0)
        greeting.withUnsafeBytes { unsent.append($0) }
    }

    /// Whether reading may find something; the observer's call says so.
    var canRead: Bool { !ends.readerWaits }
    /// The stream took less than it was offered, and will say when it takes more.
    var isBlocked: Bool { ends.writerWaits }
    var hasEnded: Bool { ends.reading == .delivered }

    /// Whether another frame can be begun.
    var isFree: Bool { unsent.isEmpty && !isBlocked }

    var hasGreeted: Bool { if case .greeting = head { false } else { true } }

    // MARK: Reading

    func becameReadable() { _ = ends.wakeReader() }

    /// Reads up to the payload of the next frame.
    func advance() -> Progress {
        while true {
            switch head {
            case .frame(let sequence, _): return .frame(sequence: sequence)
            case .greeting(let missing):
                switch fill(from: StripePreface.magic.count - missing) {
                case .bytes(let count) where count == missing:
                    let isRight = withUnsafeBytes(of: buffer) { $0.elementsEqual(StripePreface.magic) }
                    guard isRight else { return .failed(protocolViolation("does not answer as a striped stream does")) }
                    head = .header(0)
                case .bytes(let count): head = .greeting(missing - count)
                case let result: return stopped(result, isInside: true)
                }
            case .header(let have):
                switch fill(from: have) {
                case .bytes(let count) where have + count == StripeFrame.headerLength:
                    let frame = withUnsafeBytes(of: buffer) { bytes in
                        bytes.baseAddress.map { StripeFrame.read(from: $0) }
                    }
                    guard let frame, frame.length <= StripeFrame.maximumLength else {
                        return .failed(protocolViolation("sent a frame that is too long"))
                    }
                    head = .frame(sequence: frame.sequence, left: Int(frame.length))
                case .bytes(let count): head = .header(have + count)
                case let result: return stopped(result, isInside: have > 0)
                }
            }
        }
    }

    private func fill(from start: Int) -> ReadResult {
        withUnsafeMutableBytes(of: &buffer) { stream.read(into: UnsafeMutableRawBufferPointer(rebasing: $0[start...])) }
    }

    private func stopped(_ result: ReadResult, isInside: Bool) -> Progress {
        switch result {
        case .bytes, .wouldBlock:
            _ = ends.blockReader()
            return .nothing
        case .end:
            _ = ends.blockReader()
            _ = ends.deliverEnd()
            return isInside ? .failed(truncated) : .ended
        case .failed: return .failed(stream.failure ?? truncated)
        }
    }

    /// Reads the payload of the frame that has begun.
    func readPayload(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        guard case .frame(let sequence, let left) = head else { return .wouldBlock }
        let result = stream.read(into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<min(left, buffer.count)]))
        switch result {
        case .bytes(let count): head = .frame(sequence: sequence, left: left - count)
        case .wouldBlock: return ends.blockReader()
        case .end, .failed: break
        }
        return result
    }

    /// Whether the frame that has begun has been read; makes way for the next one then.
    func finishFrame() -> Bool {
        guard case .frame(_, 0) = head else { return false }
        head = .header(0)
        return true
    }

    // MARK: Writing

    /// Begins a frame with what `vectors` hold. Returns false when the stream takes nothing now; otherwise the frame
    /// was accepted as a whole.
    func send(_ vectors: UnsafeBufferPointer<iovec>, count: Int) -> Result<Bool, StreamError> {
        switch stream.write(vectors) {
        case .bytes(count): return .success(true)
        case .bytes(let sent):
            _ = ends.accept(sent, of: count)
            keep(vectors, from: sent)
            return .success(true)
        case .wouldBlock:
            _ = ends.blockWriter()
            return .success(false)
        case .failed: return .failure(stream.failure ?? truncated)
        }
    }

    /// Puts a frame behind whatever waits.
    func enqueue(_ bytes: UnsafeRawBufferPointer) { unsent.append(bytes) }

    private func keep(_ vectors: UnsafeBufferPointer<iovec>, from start: Int) {
        var skip = start
        for vector in vectors {
            let skipped = min(skip, vector.iov_len)
            skip -= skipped
            let piece = UnsafeRawBufferPointer(start: vector.iov_base, count: vector.iov_len)
            if skipped < piece.count { unsent.append(UnsafeRawBufferPointer(rebasing: piece[skipped...])) }
        }
    }

    /// The stream has room again, or never had a reason to wait. Returns why it failed, where it did.
    func flush() -> StreamError? {
        _ = ends.wakeWriter()
        while !unsent.isEmpty && !isBlocked {
            switch unsent.withVectors({ stream.write($0) }) {
            case .bytes(let count):
                _ = ends.accept(count, of: unsent.count)
                unsent.consume(count)
            case .wouldBlock: _ = ends.blockWriter()
            case .failed: return stream.failure ?? truncated
            }
        }
        return nil
    }

    /// Ends the sending direction, once everything is sent.
    func finishIfDone() {
        if unsent.isEmpty && ends.finish() { stream.finish() }
    }

    func close() {
        unsent.removeAll()
        stream.observer = nil
        stream.close()
    }

    func reset(_ reason: StreamError) {
        unsent.removeAll()
        stream.observer = nil
        stream.reset(reason)
    }

    var truncated: StreamError {
        StreamError(.truncated, "\(stream.peerDescription) ended in the middle of a striped stream")
    }

    private func protocolViolation(_ what: String) -> StreamError {
        StreamError(.protocolViolation, "\(stream.peerDescription) \(what)")
    }
}
