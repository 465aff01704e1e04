import H2Transport
import HTTP1
import Platform
import Streams

/// One GET of a document from an HTTPS server, bounded in size and in time. Keeps itself alive until it has called
/// back; confined to its loop.
final class WebFetch: StreamObserver {
    typealias Completion = (Result<[UInt8], StreamError>) -> Void

    private let authority: Authority
    private let target: String
    private let context: TLSContext
    private let limit: Int
    private let loop: EventLoop
    private var completion: Completion?
    private var timer: LoopTimer?
    private var dialer: Dialer?
    private var stream: TLSStream?
    private var retained = Retained<WebFetch>()
    private var request: ArraySlice<UInt8> = []
    private var bytes: [UInt8] = []
    private var place = 0
    private var parser: HTTPHeadParser
    private var body: HTTPBodyReader?
    private var content: [UInt8] = []

    /// - Parameters:
    ///   - authority: Where, and whose certificate is expected.
    ///   - target: Path and query.
    ///   - context: Who may vouch for the server.
    ///   - limit: Bytes of the document.
    init(_ authority: Authority, _ target: String, context: TLSContext, limit: Int, on loop: EventLoop) {
        self.authority = authority
        self.target = target
        self.context = context
        self.limit = limit
        self.loop = loop
        var limits = HTTPLimits()
        limits.head = 16 << 10
        parser = HTTPHeadParser(limits: limits)
    }

    /// `completion` is called once, on the loop.
    func start(within time: Duration, _ completion: @escaping Completion) {
        self.completion = completion
        retained.hold(self)
        let timer = LoopTimer(on: loop) { [weak self] in
            self?.end(.failure(StreamError(.timedOut, "no whole answer within \(time)")))
        }
        timer.schedule(after: time)
        self.timer = timer
        let dialer = Dialer(to: .authority(authority), on: loop, options: Dialer.Options(timeout: time)) {
            [weak self] in
            switch $0 {
            case .success(let socket): if let self { secure(socket) } else { socket.reset(.closed(socket)) }
            case .failure(let error): self?.end(.failure(error))
            }
        }
        self.dialer = dialer
        dialer.start()
    }

    private func secure(_ socket: Socket) {
        guard completion != nil else { return socket.reset(.closed(socket)) }
        let stream = TLSStream(over: socket, context: context, verifying: authority.host)
        self.stream = stream
        let host = authority.port == 443 ? String(authority.description.dropLast(4)) : authority.description
        request =
            Array(
                "GET \(target) HTTP/1.1\r\nhost: \(host)\r\naccept: application/json\r\nconnection: close\r\n\r\n".utf8
            )[...]
        stream.startHandshake { [weak self] result in
            guard let self, completion != nil else { return }
            if case .failure(let error) = result { return end(.failure(error)) }
            stream.observer = self
            write()
            read()
        }
    }

    private func write() {
        guard let stream, completion != nil, !request.isEmpty else { return }
        switch request.withUnsafeBytes({ stream.write($0) }) {
        case .bytes(let count): request = request.dropFirst(count)
        case .wouldBlock: break
        case .failed: end(.failure(stream.failure ?? .closed(stream)))
        }
    }

    private func read() {
        guard let stream else { return }
        let buffer = loop.buffers.take(.medium)
        defer { loop.buffers.give(buffer) }
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
        timer?.cancel()
        dialer?.cancel()
        stream?.reset(StreamError(.closed, "the fetch is over"))
        completion(result)
        retained.release()
    }

    func streamReadable(_ stream: ByteStream) { read() }
    func streamWritable(_ stream: ByteStream) { write() }
    func streamFailed(_ stream: ByteStream) { end(.failure(stream.failure ?? .closed(stream))) }
}
