import H2Transport
import MeshIdentity
import Platform
import Streams

/// A connection that is made step by step, each when it is asked for: what stands on top is where the next one goes on.
/// Confined to its event loop, and its owner's to keep and to ``end()``.
final class TracedConnection: H2ConnectionDelegate, StreamObserver {
    typealias Completion<Success> = (Result<Success, StreamError>) -> Void

    /// What is read and written now.
    private var stream: ByteStream?
    /// One inside of a stream of the other, where gateways are on the way.
    private var connections: [H2Connection] = []
    private var settled: Completion<Void>?
    private var heard: Completion<Int?>?
    private let loop: EventLoop
    private var isOver = false
    /// Done at the end: what was made beside it and has to be taken down as well.
    private var atEnd: [() -> Void] = []

    init(on loop: EventLoop) { self.loop = loop }

    /// Runs `step`, which may take `timeout`; what comes of it later is dropped with the connection.
    ///
    /// - Parameter completion: Called once, with how long it took.
    func within<Success>(
        _ timeout: Duration,
        _ what: String,
        _ step: (@escaping Completion<Success>) -> Void,
        _ completion: @escaping (Result<Success, StreamError>, Duration) -> Void
    ) {
        let start = ContinuousClock.now
        var waiting: ((Result<Success, StreamError>, Duration) -> Void)? = completion
        var timer: LoopTimer?
        func end(_ result: Result<Success, StreamError>) {
            guard let completion = waiting else { return }
            waiting = nil
            timer?.cancel()
            timer = nil
            completion(result, .now - start)
        }
        timer = LoopTimer(on: loop) { end(.failure(StreamError(.timedOut, "\(what): no answer within \(timeout)"))) }
        timer?.schedule(after: timeout)
        step(end)
    }

    /// `body` is run when the trace is over, and until then kept with all that it holds.
    func whenOver(_ body: @escaping () -> Void) { atEnd.append(body) }

    // MARK: Steps

    /// Goes on over a stream that somebody else has made.
    func take(_ stream: ByteStream) {
        guard !isOver else { return Self.drop(stream) }
        self.stream = stream
    }

    func dial(
        _ addresses: [SocketAddress],
        timeout: Duration,
        _ completion: @escaping Completion<String>
    ) {
        let options = Dialer.Options(timeout: timeout, socket: .multiplexed(unacknowledgedLimit: .seconds(10)))
        Dialer.connect(to: .addresses(addresses), on: loop, options: options) { [weak self] result in
            completion(
                result.map { socket -> String in
                    if let self { self.take(socket) } else { Self.drop(socket) }
                    return socket.peerDescription
                }
            )
        }
    }

    func secure(
        _ context: TLSContext,
        expecting expectation: PeerExpectation,
        _ completion: @escaping Completion<TLSPeer>
    ) {
        guard let lower = stream else { return completion(.failure(.notConnected)) }
        let secured = TLSStream(over: lower, context: context, expecting: expectation)
        stream = secured
        secured.startHandshake(completion: completion)
    }

    /// Until the peer's SETTINGS are there: it has accepted our certificate by then, and speaks HTTP/2.
    func speak(_ configuration: H2Configuration, _ completion: @escaping Completion<Void>) {
        guard let lower = stream else { return completion(.failure(.notConnected)) }
        settled = completion
        do throws(StreamError) {
            let connection = try H2Connection(over: lower, role: .client, configuration: configuration, delegate: self)
            // It owns what is below.
            stream = nil
            connections.append(connection)
        } catch {
            settled = nil
            completion(.failure(error))
        }
    }

    func connect(_ request: ConnectRequest, _ completion: @escaping Completion<Int>) {
        guard let connection = connections.last else { return completion(.failure(.notConnected)) }
        _ = connection.openStream(request) { [weak self] result in
            switch result {
            case .success(let stream):
                if let self { self.take(stream) } else { Self.drop(stream) }
                completion(.success(stream.response?.status ?? 200))
            case .failure(let failure): completion(.failure(failure.error))
            }
        }
    }

    /// The first that comes from the other end, which may be its end: nil.
    func listen(_ completion: @escaping Completion<Int?>) {
        guard let stream else { return completion(.failure(.notConnected)) }
        heard = completion
        stream.observer = self
        hear(stream)
    }

    private func hear(_ stream: ByteStream) {
        guard heard != nil else { return }
        let result = withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 1) { stream.read(into: $0) }
        switch result {
        case .wouldBlock: return
        case .bytes(let count): tell(.success(count))
        case .end: tell(.success(nil))
        case .failed: tell(.failure(stream.failure ?? StreamError(.reset, "the stream was cut")))
        }
    }

    private func tell(_ result: Result<Int?, StreamError>) {
        let heard = heard
        self.heard = nil
        heard?(result)
    }

    /// Whatever stands is taken down, the innermost first.
    func end() {
        isOver = true
        (settled, heard) = (nil, nil)
        if let stream { Self.drop(stream) }
        stream = nil
        for connection in connections.reversed() { connection.close() }
        connections = []
        let last = atEnd
        atEnd = []
        for body in last { body() }
    }

    private static func drop(_ stream: ByteStream) { stream.reset(StreamError(.closed, "the trace is over")) }

    // MARK: StreamObserver

    func streamReadable(_ stream: ByteStream) { hear(stream) }
    func streamWritable(_ stream: ByteStream) {}
    func streamFailed(_ stream: ByteStream) {
        tell(.failure(stream.failure ?? StreamError(.reset, "the stream was cut")))
    }

    // MARK: H2ConnectionDelegate

    func connectionHasCapacity(_ connection: H2Connection) { settle(connection, .success(())) }

    func connectionIsDraining(_ connection: H2Connection) {
        settle(connection, .failure(StreamError(.draining, "\(connection.peerDescription) takes no more streams")))
    }

    func connection(_ connection: H2Connection, closed reason: StreamError?) {
        settle(connection, .failure(reason ?? StreamError(.draining, "the peer closed the connection")))
    }

    private func settle(_ connection: H2Connection, _ result: Result<Void, StreamError>) {
        guard connection === connections.last, let settled else { return }
        self.settled = nil
        settled(result)
    }
}

extension StreamError {
    fileprivate static var notConnected: StreamError { StreamError(.closed, "there is no connection") }
}
