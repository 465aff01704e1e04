import H2Transport
import Streams

/// One attempt to get a connection to a peer: a stream that leads there, mutual TLS, and a PING that is answered. Confined to
/// its event loop.
final class TunnelDial: H2ConnectionDelegate {
    /// Connects to where the peer's HBONE server is. Calls back once, on the loop.
    typealias LowerDialer = (@escaping (Result<ByteStream, StreamError>) -> Void) -> Void
    typealias Completion = (Result<H2Connection, StreamError>) -> Void

    private let dialLower: LowerDialer
    private let context: TLSContext
    private let expectation: PeerExpectation
    private let configuration: H2Configuration
    private let loop: EventLoop
    private var completion: Completion?
    private var connection: H2Connection?
    /// Until it has called back: the connection does not retain its delegate, and forgets who waits for the PING before it says why it
    /// has ended.
    private var retained = Retained<TunnelDial>()

    /// How long the first PING may take; the connection's own keep-alive is too patient for a path on trial.
    private static let firstAnswer: Duration = .seconds(5)

    init(
        over dialLower: @escaping LowerDialer,
        context: TLSContext,
        expecting expectation: PeerExpectation,
        configuration: H2Configuration,
        on loop: EventLoop
    ) {
        self.dialLower = dialLower
        self.context = context
        self.expectation = expectation
        self.configuration = configuration
        self.loop = loop
    }

    /// `completion` is called once, on the loop, unless ``cancel()`` comes first. The connection still has this object as its
    /// delegate, which the owner replaces with itself.
    func start(_ completion: @escaping Completion) {
        self.completion = completion
        retained.hold(self)
        dialLower { [self] result in
            switch result {
            case .success(let stream) where self.completion == nil: Self.drop(stream)
            case .success(let stream): secure(stream)
            case .failure(let error): end(.failure(error))
            }
        }
    }

    func cancel() {
        completion = nil
        connection?.close()
        connection = nil
        retained.release()
    }

    private static func drop(_ stream: ByteStream) { stream.reset(StreamError(.closed, "nobody waits for it")) }

    private func secure(_ lower: ByteStream) {
        let stream = TLSStream(over: lower, context: context, expecting: expectation)
        stream.startHandshake { [self] result in
            switch result {
            case .success where completion == nil: Self.drop(stream)
            case .success: speak(over: stream)
            case .failure(let error): end(.failure(error))
            }
        }
    }

    private func speak(over stream: TLSStream) {
        do throws(StreamError) {
            let connection = try H2Connection(
                over: stream,
                role: .client,
                configuration: configuration,
                delegate: self
            )
            self.connection = connection
            connection.probe(timeout: Self.firstAnswer) { [self] isAlive in
                guard isAlive else {
                    let error = StreamError(.timedOut, "\(stream.peerDescription) does not answer over HTTP/2")
                    return connection.abort(error)
                }
                self.connection = nil
                end(.success(connection))
            }
        } catch {
            Self.drop(stream)
            end(.failure(error))
        }
    }

    private func end(_ result: Result<H2Connection, StreamError>) {
        guard let completion else { return }
        self.completion = nil
        switch result {
        case .success: configuration.metrics.countHandshake(.client)
        case .failure(let error): configuration.metrics.countHandshake(.client, failure: error)
        }
        completion(result)
        retained.release()
    }

    // MARK: H2ConnectionDelegate

    func connection(_ connection: H2Connection, received request: PendingConnect) { request.reject(.denied()) }

    func connectionIsDraining(_ connection: H2Connection) {
        end(.failure(StreamError(.draining, "\(connection.peerDescription) takes no more streams")))
        cancel()
    }

    func connection(_ connection: H2Connection, closed reason: StreamError?) {
        self.connection = nil
        end(.failure(reason ?? StreamError(.draining, "the peer closed the connection")))
    }
}
