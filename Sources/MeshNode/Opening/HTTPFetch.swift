import HTTP1
import Streams

/// One GET of a document over a stream that stands, bounded in size. The stream is used up. Confined to its loop, and
/// its owner's to keep until it has called back.
final class HTTPFetch: StreamObserver {
    typealias Completion = (Result<[UInt8], StreamError>) -> Void

    private let stream: ByteStream
    private let limit: Int
    private var completion: Completion?
    private var request: ArraySlice<UInt8>
    private var bytes: [UInt8] = []
    private var place = 0
    private var parser: HTTPHeadParser
    private var body: HTTPBodyReader?
    private var content: [UInt8] = []

    /// - Parameters:
    ///   - stream: Leads to the server.
    ///   - host: The field of that name.
    ///   - target: Path and query.
    ///   - limit: Bytes of the document.
    init(over stream: ByteStream, host: String, target: String, limit: Int) {
        self.stream = stream
        self.limit = limit
        request =
            Array(
                "GET \(target) HTTP/1.1\r\nhost: \(host)\r\naccept: application/json\r\nconnection: close\r\n\r\n".utf8
            )[...]
        var limits = HTTPLimits()
        limits.head = 16 << 10
        parser = HTTPHeadParser(limits: limits)
    }

    /// `completion` is called once, on the loop, unless ``cancel()`` comes first.
    func start(_ completion: @escaping Completion) {
        self.completion = completion
        stream.observer = self
        write()
        read()
    }

    func cancel() {
        completion = nil
        stream.reset(StreamError(.closed, "the fetch is over"))
    }

    private func write() {
        guard completion != nil, !request.isEmpty else { return }
        switch request.withUnsafeBytes({ stream.write($0) }) {
        case .bytes(let count): request = request.dropFirst(count)
        case .wouldBlock: break
        case .failed: end(.failure(stream.failure ?? .closed(stream)))
        }
    }

    private func read() {
        let buffer = stream.loop.buffers.take(.medium)
        defer { stream.loop.buffers.give(buffer) }
        while completion != nil {
            switch stream.read(into: buffer.writable) {
            case .bytes(let count):
                bytes += UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(buffer.writable)[..<count])
                parse()
            case .wouldBlock: return
            case .end:
                guard body?.mayEndHere == true else {
                    return end(.failure(StreamError(.truncated, "the answer ended before it was whole")))
                }
                return end(.success(content))
            case .failed: return end(.failure(stream.failure ?? .closed(stream)))
            }
        }
    }

    private func parse() {
        do throws(HTTPError) {
            if body == nil {
                guard let next = try parser.end(in: bytes, from: 0) else { return }
                let head = try parser.response(bytes[..<next], to: "GET")
                guard head.status == 200 else {
                    return end(.failure(StreamError(.unreachable, "the answer is \(head.status), and not 200")))
                }
                place = next
                body = HTTPBodyReader(head.framing)
            }
            while completion != nil, var reader = body {
                let step = try reader.next(in: bytes, from: place)
                body = reader
                switch step {
                case .content(let range):
                    guard content.count + range.count <= limit else {
                        return end(.failure(StreamError(.limit, "the document has more than \(limit >> 10) KiB")))
                    }
                    content += bytes[range]
                    place = range.upperBound
                case .needsMore(let consumed):
                    bytes.removeFirst(consumed)
                    place = 0
                    return
                case .end: return end(.success(content))
                }
                if place == bytes.count {
                    bytes = []
                    place = 0
                }
            }
        } catch {
            end(.failure(StreamError(.protocolViolation, "the answer is none of HTTP/1.1: \(error.message)")))
        }
    }

    private func end(_ result: Result<[UInt8], StreamError>) {
        guard let completion else { return }
        self.completion = nil
        stream.reset(StreamError(.closed, "the fetch is over"))
        completion(result)
    }

    func streamReadable(_ stream: ByteStream) { read() }
    func streamWritable(_ stream: ByteStream) { write() }
    func streamFailed(_ stream: ByteStream) { end(.failure(stream.failure ?? .closed(stream))) }
}
