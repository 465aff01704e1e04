package import Streams

/// One attempt to get a connection to an endpoint: a stream that leads there, mutual TLS, HTTP/2, and where that is
/// asked for a PING that is answered. Confined to its event loop.
package final class ConnectionDial: H2ConnectionDelegate {
    package typealias Completion = (Result<H2Connection, StreamError>) -> Void

    private let endpoint: H2Endpoint
    private let configuration: H2Configuration
    private let firstAnswer: Duration?
    private let loop: EventLoop
    private var completion: Completion?
    private var began: UInt64 = 0
    private var connection: H2Connection?
    /// The peer has proved who it is, and HTTP/2 was begun.
    private(set) var hasBegun = false
    /// Until it has called back: the connection does not retain its delegate, and forgets who waits for the PING before
    /// it says why it has ended.
    private var retained = Retained<ConnectionDial>()

    /// - Parameters:
    ///   - endpoint: Where to, and how.
    ///   - configuration: Of the connection.
    ///   - firstAnswer: How long the first PING may take, of a path on trial: only then has the peer accepted this
    ///     side's certificate (TLS 1.3 tells a client by its first read) and shown that it speaks HTTP/2. nil: there is
    ///     none.
    ///   - loop: Where the connection lives.
    package init(
        to endpoint: H2Endpoint,
        configuration: H2Configuration,
        firstAnswer: Duration? = nil,
        on loop: EventLoop
    ) {
        self.endpoint = endpoint
        self.configuration = configuration
        self.firstAnswer = firstAnswer
        self.loop = loop
    }

    /// `completion` is called once, on the loop, unless ``cancel()`` comes first. The connection still has this object
    /// as its delegate, which the owner replaces with itself.
    package func start(_ completion: @escaping Completion) {
        self.completion = completion
        began = loop.now
        retained.hold(self)
        endpoint.connect(loop) { [self] result in
            switch result {
            case .success(let stream) where self.completion == nil: Self.drop(stream)
            case .success(let stream): speak(over: stream)
            case .failure(let error): end(.failure(error))
            }
        }
    }

    package func cancel() {
        completion = nil
        connection?.close()
        connection = nil
        retained.release()
    }

    private static func drop(_ stream: ByteStream) { stream.reset(StreamError(.closed, "nobody waits for it")) }

    private func speak(over stream: ByteStream) {
        do throws(StreamError) {
            let connection = try H2Connection(
                over: stream,
                role: .client,
                configuration: configuration,
                delegate: self
            )
            hasBegun = true
            guard let firstAnswer else { return end(.success(connection)) }
            self.connection = connection
            connection.probe(timeout: firstAnswer) { [self] isAlive in
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
        case .success: configuration.metrics.countHandshake(.client, nanoseconds: loop.now &- began)
        case .failure(let error): configuration.metrics.countHandshake(.client, failure: error)
        }
        completion(result)
        retained.release()
    }

    // MARK: H2ConnectionDelegate

    package func connection(_ connection: H2Connection, received request: PendingConnect) {
        request.reject(.denied())
    }

    package func connectionIsDraining(_ connection: H2Connection) {
        end(.failure(StreamError(.draining, "\(connection.peerDescription) takes no more streams")))
        cancel()
    }

    package func connection(_ connection: H2Connection, closed reason: StreamError?) {
        self.connection = nil
        end(.failure(reason ?? StreamError(.draining, "the peer closed the connection")))
    }
}
