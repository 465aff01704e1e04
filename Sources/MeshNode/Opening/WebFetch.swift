import H2Transport
import Platform
import Streams

/// One GET of a document from an HTTPS server, bounded in size and in time. Keeps itself alive until it has called
/// back; confined to its loop.
final class WebFetch {
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
    private var fetch: HTTPFetch?
    private var retained = Retained<WebFetch>()

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
        stream.startHandshake { [weak self] result in
            guard let self, completion != nil else { return }
            if case .failure(let error) = result { return end(.failure(error)) }
            let fetch = HTTPFetch(over: stream, host: host, target: target, limit: limit)
            self.fetch = fetch
            fetch.start { [weak self] in self?.end($0) }
        }
    }

    private func end(_ result: Result<[UInt8], StreamError>) {
        guard let completion else { return }
        self.completion = nil
        timer?.cancel()
        dialer?.cancel()
        fetch?.cancel()
        stream?.reset(StreamError(.closed, "the fetch is over"))
        completion(result)
        retained.release()
    }
}
