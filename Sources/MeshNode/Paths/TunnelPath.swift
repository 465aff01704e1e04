import H2Transport
import MeshIdentity
import Streams

/// A path that carries mesh identity: mutual TLS and HTTP/2 over a stream that leads to the peer, be it a TCP connection or an
/// SSH channel. Confined to its event loop.
///
/// ```
///   idle ── connect ──→ dialing ── TLS ──→ on trial ── PING answered ──→ up ── GOAWAY ──→ dialing (old streams stay)
///    ↑                     │ failed           │ failed                   │ lost, or silent while bytes are owed
///    └─────────────────────┴──────────────────┴──────────────────────────┘  onDown
/// ```
///
/// The path counts as up when a PING came back: only then has the peer accepted this side's certificate (TLS 1.3 tells a
/// client by its first read) and shown that it speaks HTTP/2.
final class TunnelPath: H2ConnectionDelegate {
    /// Connects to where the peer's HBONE server is. Calls back once, on the loop.
    typealias LowerDialer = (@escaping (Result<ByteStream, StreamError>) -> Void) -> Void

    private enum State {
        case idle
        case dialing
        /// Secured, and asked for its first sign of life.
        case onTrial(H2Connection)
        case up(H2Connection)
        case closed
    }

    private struct Opening {
        let request: ConnectRequest
        let completion: (Result<H2Stream, ConnectFailure>) -> Void
    }

    /// The path can carry streams.
    var onUp: (() -> Void)?
    /// The path could not be established, or was lost.
    var onDown: ((StreamError) -> Void)?
    /// Who the peer proved to be, last.
    private(set) var peer: SPIFFEID?
    /// Counts losses: tells whether a request failed because the path did.
    private(set) var losses = 0

    private let dialLower: LowerDialer
    private let expectation: PeerExpectation
    private let configuration: H2Configuration
    private let loop: EventLoop
    private var context: TLSContext
    private var state = State.idle
    /// Wait for the connection that replaces one the peer is draining.
    private var openings: [Opening] = []
    /// Connections that take no new streams and live until theirs have ended.
    private var retiring: [H2Connection] = []
    private var monitor: LoopTimer?
    private var isProbing = false
    /// Carries what the peer allows no more of on one connection.
    private var overflow: H2ClientPool?

    /// How long a connection that owes bytes may be silent before it is asked: looked at that often, it is asked 0.3 to 0.6 s
    /// after its last byte.
    private static let silence: Duration = .milliseconds(300)
    /// How long it may take to answer at least. A peer that is merely busy must not be taken for a black hole; together with
    /// the silence, one is found within 1.5 s.
    private static let shortestAnswer: Duration = .milliseconds(900)

    init(
        over dialLower: @escaping LowerDialer,
        context: TLSContext,
        expecting expectation: PeerExpectation,
        configuration: H2Configuration = .defaults,
        on loop: EventLoop
    ) {
        self.dialLower = dialLower
        self.context = context
        self.expectation = expectation
        self.configuration = configuration
        self.loop = loop
        monitor = LoopTimer(on: loop) { [weak self] in self?.checkSilence() }
    }

    /// Establishes the path; answers with ``onUp`` or ``onDown``.
    func connect() {
        guard case .idle = state else { return }
        state = .dialing
        dialLower { [weak self] result in
            guard let self, case .dialing = state else {
                if case .success(let stream) = result { stream.reset(StreamError(.closed, "nobody waits for it")) }
                return
            }
            switch result {
            case .success(let stream): secure(stream)
            case .failure(let error): down(error)
            }
        }
    }

    /// Opens a tunnel. `completion` is called once, on the loop.
    func open(_ request: ConnectRequest, completion: @escaping (Result<H2Stream, ConnectFailure>) -> Void) {
        switch state {
        case .up(let connection): open(request, on: connection, completion)
        case .dialing, .onTrial: openings.append(Opening(request: request, completion: completion))
        case .idle, .closed:
            LoopTimer(on: loop) {
                completion(.failure(ConnectFailure(StreamError(.closed, "the path is down"), isRetryable: true)))
            }.schedule(after: .zero)
        }
    }

    /// New connections show this credential.
    func use(_ context: TLSContext) { self.context = context }

    func close() {
        let before = state
        state = .closed
        monitor?.cancel()
        switch before {
        case .up(let connection), .onTrial(let connection): connection.close()
        case .idle, .dialing, .closed: break
        }
        for connection in retiring { connection.close() }
        retiring = []
        overflow?.close()
        failOpenings(StreamError(.closed, "the path was closed"))
    }

    // MARK: Establishing

    private func secure(_ lower: ByteStream) {
        let stream = TLSStream(over: lower, context: context, expecting: expectation)
        stream.startHandshake { [weak self] result in
            guard let self, case .dialing = state else {
                return stream.reset(StreamError(.closed, "nobody waits for it"))
            }
            switch result {
            case .success(let peer): speak(over: stream, to: peer.identity)
            case .failure(let error): down(error)
            }
        }
    }

    private func speak(over stream: TLSStream, to peer: SPIFFEID) {
        do {
            let connection = try H2Connection(
                over: stream,
                role: .client,
                peer: peer,
                configuration: configuration,
                delegate: self
            )
            state = .onTrial(connection)
            // The connection's own keep-alive is too patient for a path on trial.
            connection.probe(timeout: .seconds(5)) { [weak self] isAlive in
                guard isAlive else {
                    return connection.abort(
                        StreamError(.timedOut, "\(stream.peerDescription) does not answer over HTTP/2")
                    )
                }
                self?.passed(connection, peer)
            }
        } catch {
            stream.reset(error)
            down(error)
        }
    }

    private func passed(_ connection: H2Connection, _ peer: SPIFFEID) {
        guard case .onTrial(let current) = state, current === connection else { return }
        self.peer = peer
        state = .up(connection)
        onUp?()
        let openings = self.openings
        self.openings = []
        for opening in openings { open(opening.request, on: connection, opening.completion) }
    }

    private func down(_ error: StreamError) {
        losses += 1
        state = .idle
        monitor?.cancel()
        failOpenings(error)
        onDown?(error)
    }

    private func failOpenings(_ error: StreamError) {
        let openings = self.openings
        self.openings = []
        for opening in openings { opening.completion(.failure(ConnectFailure(error, isRetryable: true))) }
    }

    // MARK: Using

    private func open(
        _ request: ConnectRequest,
        on connection: H2Connection,
        _ completion: @escaping (Result<H2Stream, ConnectFailure>) -> Void
    ) {
        if connection.availableStreams > 0 {
            connection.openStream(request, completion: completion)
        } else {
            openBeside(request, completion)
        }
        if monitor?.isScheduled == false { monitor?.schedule(after: Self.silence) }
    }

    private func openBeside(
        _ request: ConnectRequest,
        _ completion: @escaping (Result<H2Stream, ConnectFailure>) -> Void
    ) {
        do throws(StreamError) {
            let pool: H2ClientPool
            if let overflow { pool = overflow } else { pool = try H2ClientPool(on: loop) }
            overflow = pool
            let endpoint = H2Endpoint.over("overflow", context: context, expecting: expectation) { [dialLower] in
                dialLower($1)
            }
            pool.openStream(request, to: endpoint, completion: completion)
        } catch {
            LoopTimer(on: loop) { completion(.failure(ConnectFailure(error))) }.schedule(after: .zero)
        }
    }

    /// Runs while streams are open. Silence alone is no reason to ask: an idle stream owes nothing, and a device's battery
    /// pays for each PING. Silence after something was sent is.
    private func checkSilence() {
        guard case .up(let connection) = state, connection.streamCount > 0 else { return }
        monitor?.schedule(after: Self.silence)
        guard !isProbing, connection.lastSent > connection.lastReceived,
            loop.now &- connection.lastReceived >= Self.silence.nanoseconds
        else { return }
        isProbing = true
        let timeout = max(Self.shortestAnswer, (connection.roundTripTime ?? .zero) * 4)
        connection.probe(timeout: timeout) { [weak self] isAlive in
            self?.isProbing = false
            guard !isAlive else { return }
            connection.abort(StreamError(.timedOut, "no answer to PING within \(timeout)"))
        }
    }

    // MARK: H2ConnectionDelegate

    func connection(_ connection: H2Connection, received request: PendingConnect) {
        // A client is not asked for tunnels; nghttp2 has refused it as a protocol error before.
        request.reject(.denied())
    }

    func connectionIsDraining(_ connection: H2Connection) {
        guard case .up(let current) = state, current === connection else { return }
        // The path is not lost: its streams go on, and new ones get a new connection.
        retiring.append(connection)
        state = .idle
        connect()
    }

    func connection(_ connection: H2Connection, closed reason: StreamError?) {
        switch state {
        case .up(let current) where current === connection, .onTrial(let current) where current === connection:
            down(reason ?? StreamError(.draining, "the peer closed the connection"))
        default:
            retiring.removeAll { $0 === connection }
        }
    }
}
