import Platform
package import Streams

/// Reads the administration of a node, wherever that is.
package struct AdministrationClient: Sendable {
    /// Makes a stream to where it listens, on the loop, and calls back there once.
    package typealias Dial = @Sendable (EventLoop, @escaping (Result<ByteStream, StreamError>) -> Void) -> Void

    private let host: String
    private let dial: Dial
    private let loop: EventLoop

    /// A page of ten thousand streams is less than that.
    private static let limit = 32 << 20
    private static let timeout = Duration.seconds(10)

    /// - Parameters:
    ///   - place: Where it listens.
    ///   - loop: Where its streams live.
    package init(at place: SocketAddress, on loop: EventLoop) {
        self.init(at: place, on: loop) { loop, completion in
            Dialer.connect(to: .address(place), on: loop, options: .init(timeout: Self.timeout)) {
                completion($0.map { $0 })
            }
        }
    }

    /// The same over streams of somebody else's.
    package init(at place: SocketAddress, on loop: EventLoop, dial: @escaping Dial) {
        host = place.isUnix ? "localhost" : place.description
        self.dial = dial
        self.loop = loop
    }

    /// - Parameter target: Path and query.
    /// - Returns: The document.
    /// - Throws: ``Streams/StreamError``; `cancelled` where the task was.
    package func get(_ target: String) async throws(StreamError) -> [UInt8] {
        let (dial, loop) = (dial, loop)
        let exchange = LoopBound(Exchange(host: host, target: target, limit: Self.limit, on: loop), on: loop)
        let result: Result<[UInt8], StreamError> = await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                loop.submit {
                    exchange.withValue {
                        $0.start(dial, within: Self.timeout) { continuation.resume(returning: $0) }
                    }
                }
            }
        } onCancel: {
            loop.submit { exchange.withValue { $0.cancel() } }
        }
        return try result.get()
    }

    /// One question and its answer. Keeps itself alive until it has called back.
    private final class Exchange {
        private let host: String
        private let target: String
        private let limit: Int
        private let loop: EventLoop
        private var completion: ((Result<[UInt8], StreamError>) -> Void)?
        private var timer: LoopTimer?
        private var fetch: HTTPFetch?
        private var retained = Retained<Exchange>()
        private var isCancelled = false

        init(host: String, target: String, limit: Int, on loop: EventLoop) {
            (self.host, self.target, self.limit, self.loop) = (host, target, limit, loop)
        }

        func start(_ dial: Dial, within time: Duration, _ completion: @escaping (Result<[UInt8], StreamError>) -> Void)
        {
            self.completion = completion
            retained.hold(self)
            guard !isCancelled else { return cancel() }
            timer = LoopTimer(on: loop) { [weak self] in
                self?.end(.failure(StreamError(.timedOut, "no whole answer within \(time)")))
            }
            timer?.schedule(after: time)
            dial(loop) { [self] result in
                switch result {
                case .failure(let error): end(.failure(error))
                case .success(let stream):
                    guard self.completion != nil else { return stream.reset(.closed(stream)) }
                    let fetch = HTTPFetch(over: stream, host: host, target: target, limit: limit)
                    self.fetch = fetch
                    fetch.start { [weak self] in self?.end($0) }
                }
            }
        }

        func cancel() {
            isCancelled = true
            end(.failure(StreamError(.cancelled, "nobody waits for the answer any more")))
        }

        private func end(_ result: Result<[UInt8], StreamError>) {
            guard let completion else { return }
            self.completion = nil
            timer?.cancel()
            timer = nil
            fetch?.cancel()
            completion(result)
            retained.release()
        }
    }
}
