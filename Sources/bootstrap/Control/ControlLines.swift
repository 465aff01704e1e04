import Platform
import Streams

/// The lines of one connection to a control socket, either side's. Confined to its loop, and its owner's to keep.
final class ControlLines: StreamObserver {
    private(set) var socket: Socket
    /// Told of each line, without its end.
    var onLine: ((String) -> Void)?
    /// Told once when the other side has gone, or says what is no line; nil: it has ended.
    var onEnd: ((StreamError?) -> Void)?
    private let longestLine: Int
    private var bytes: [UInt8] = []
    /// So many of them have no end of a line.
    private var scanned = 0
    /// What the socket has not taken.
    private var output: [UInt8] = []
    /// Before anything else was understood.
    private var isFirst = true
    private var isOver = false
    private var isReading = false

    /// - Parameter longestLine: What the other side says at most, in bytes. Whoever asks trusts whom he asks.
    init(_ socket: Socket, longestLine: Int = ControlMessage.longestRequest) {
        self.socket = socket
        self.longestLine = longestLine
    }

    func start() {
        socket.observer = self
        read()
    }

    /// False where the other side reads nothing, or is asked for too much: the connection is over then.
    @discardableResult
    func send(_ words: [String]) -> Bool {
        guard !isOver else { return false }
        output += ControlMessage.line(words).utf8
        flush()
        if !isOver, output.count > ControlMessage.longestAnswer {
            end(StreamError(.limit, "the other side of the control socket does not read"))
        }
        return !isOver
    }

    /// Whether the socket has taken all that was sent.
    var isFlushed: Bool { output.isEmpty }

    private func flush() {
        while !isOver, !output.isEmpty {
            switch output.withUnsafeBytes({ socket.write($0) }) {
            case .bytes(let count): output.removeFirst(count)
            case .wouldBlock: return
            case .failed: return end(socket.failure)
            }
        }
    }

    /// What comes from now on is no line.
    ///
    /// - Returns: What was read too much.
    func handOver() -> [UInt8] {
        isOver = true
        (onLine, onEnd) = (nil, nil)
        defer { bytes = [] }
        return bytes
    }

    func close() {
        guard !isOver else { return }
        isOver = true
        (onLine, onEnd) = (nil, nil)
        socket.finish()
        socket.close()
    }

    func streamReadable(_ stream: ByteStream) { read() }
    func streamWritable(_ stream: ByteStream) { flush() }
    func streamFailed(_ stream: ByteStream) { end(stream.failure) }

    private func read() {
        // A line may have another one read.
        guard !isReading else { return }
        isReading = true
        defer { isReading = false }
        while !isOver {
            if takeLine() { continue }
            guard !isOver else { return }
            let result = withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 1) { buffer in
                let result = socket.read(into: buffer)
                if case .bytes(let count) = result { bytes.append(contentsOf: buffer[..<count]) }
                return result
            }
            switch result {
            case .bytes: continue
            case .wouldBlock: return
            case .end: return end(nil)
            case .failed: return end(socket.failure)
            }
        }
    }

    private func takeLine() -> Bool {
        if isFirst, let first = bytes.first {
            isFirst = false
            // A message of ssh's begins with its length, in four bytes.
            if first == 0 {
                end(StreamError(.protocolViolation, "an ssh master listens there: it is left alone"))
                return false
            }
        }
        guard let newline = bytes[scanned...].firstIndex(of: UInt8(ascii: "\n")) else {
            scanned = bytes.count
            if bytes.count > longestLine {
                end(StreamError(.protocolViolation, "the other side of the control socket does not speak in lines"))
            }
            return false
        }
        let line = String(decoding: bytes[..<newline], as: UTF8.self)
        bytes.removeSubrange(...newline)
        scanned = 0
        onLine?(line)
        return true
    }

    private func end(_ error: StreamError?) {
        guard !isOver else { return }
        isOver = true
        let told = onEnd
        (onLine, onEnd) = (nil, nil)
        socket.close()
        told?(error)
    }
}
