import Platform
import Streams

/// The lines of one connection to a control socket, either side's. Confined to its loop, and its owner's to keep.
final class ControlLines: StreamObserver {
    private(set) var socket: Socket
    /// Told of each line, without its end.
    var onLine: ((String) -> Void)?
    /// Told once when the other side has gone, or says what is no line; nil: it has ended.
    var onEnd: ((StreamError?) -> Void)?
    private var bytes: [UInt8] = []
    /// Before anything else was understood.
    private var isFirst = true
    private var isOver = false
    private var isReading = false

    init(_ socket: Socket) { self.socket = socket }

    func start() {
        socket.observer = self
        read()
    }

    /// False where the other side reads nothing: the connection is over then.
    @discardableResult
    func send(_ words: [String]) -> Bool {
        guard !isOver else { return false }
        let line = Array(ControlMessage.line(words).utf8)
        if line.withUnsafeBytes({ socket.write($0) }) == .bytes(line.count) { return true }
        end(socket.failure ?? StreamError(.limit, "the other side of the control socket does not read"))
        return false
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
    func streamWritable(_ stream: ByteStream) {}
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
        guard let newline = bytes.firstIndex(of: UInt8(ascii: "\n")) else {
            if bytes.count > ControlMessage.maximumLine {
                end(StreamError(.protocolViolation, "the other side of the control socket does not speak in lines"))
            }
            return false
        }
        let line = String(decoding: bytes[..<newline], as: UTF8.self)
        bytes.removeSubrange(...newline)
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
