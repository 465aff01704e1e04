import H2Transport
import MeshIdentity
import Streams

/// A path that carries mesh identity: mutual TLS and HTTP/2 over a stream that leads to the peer, be it a TCP connection or an
/// SSH channel. Confined to its event loop.
///
/// ```
///   idle ── connect ──→ dialing: TLS, then a PING that is answered ──→ up ── GOAWAY ──→ dialing (old streams stay)
///    ↑                     │ failed                                     │ lost, silent while bytes are owed, or idle
///    └─────────────────────┴────────────────────────────────────────────┘  onDown, onIdle
/// ```
///
/// The path counts as up when a PING came back: only then has the peer accepted this side's certificate (TLS 1.3 tells a
/// client by its first read) and shown that it speaks HTTP/2. A connection that has become too old stays in use until the one
/// that replaces it is up.
final class TunnelPath: H2ConnectionDelegate {
    /// Connects to where the peer's HBONE server is. Calls back once, on the loop.
    typealias LowerDialer = (@escaping (Result<ByteStream, StreamError>) -> Void) -> Void

    private enum State {
        case idle
        case dialing
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
    /// No stream has used the path for its idle timeout.
    var onIdle: (() -> Void)?
    /// Who the peer proved to be, last.
    private(set) var peer: SPIFFEID?
    /// Counts losses: tells whether a request failed because the path did.
    private(set) var losses = 0

    private let dialLower: LowerDialer
    private let expectation: PeerExpectation
    private let loop: EventLoop
    private var context: TLSContext
    private var settings: ConnectionSettings
    private var state = State.idle
    /// What is being established: the first connection, or one that replaces another.
    private var dial: ConnectionDial?
    /// Connections in a row that the peer drained while they were being established.
    private var refusals = 0
    /// Wait for the connection that replaces one the peer is draining.
    private var openings: [Opening] = []
    /// Connections that take no new streams and live until theirs have ended.
    private var retiring: [H2Connection] = []
    private var monitor: LoopTimer?
    private var idleTimer: LoopTimer?
    private var replacementTimer: LoopTimer?
    private var isProbing = false
    /// Carries what the peer allows no more of on one connection, and what would wait behind its stalled window.
    private var overflow: H2ClientPool?

    /// How long the first PING may take; the connection's own keep-alive is too patient for a path on trial.
    static let firstAnswer: Duration = .seconds(5)
    /// How long a connection that owes bytes may be silent before it is asked: looked at that often, it is asked 0.3 to 0.6 s
    /// after its last byte.
    private static let silence: Duration = .milliseconds(300)
    /// How long it may take to answer at least. A peer that is merely busy must not be taken for a black hole; together with
    /// the silence, one is found within 1.5 s.
    private static let shortestAnswer: Duration = .milliseconds(900)
    /// Pause before another attempt to replace a connection that has become too old, and still works.
    private static let replacementPause: Duration = .seconds(60)
    /// A peer that sends GOAWAY on so many new connections in a row is not merely restarting.
    private static let refusalsInARow = 3

    init(
        over dialLower: @escaping LowerDialer,
        context: TLSContext,
        expecting expectation: PeerExpectation,
        settings: ConnectionSettings,
        on loop: EventLoop
    ) {
        self.dialLower = dialLower
        self.context = context
        self.expectation = expectation
        self.settings = settings
        self.loop = loop
        monitor = LoopTimer(on: loop) { [weak self] in self?.checkSilence() }
        idleTimer = LoopTimer(on: loop) { [weak self] in self?.checkIdle() }
        replacementTimer = LoopTimer(on: loop) { [weak self] in self?.replace() }
    }

    /// Establishes the path; answers with ``onUp`` or ``onDown``.
    func connect() {
        guard case .idle = state else { return }
        state = .dialing
        if dial == nil { establish() }
    }

    /// Opens a tunnel. `completion` is called once, on the loop.
    func open(_ request: ConnectRequest, completion: @escaping (Result<H2Stream, ConnectFailure>) -> Void) {
        switch state {
        case .up(let connection): open(request, on: connection, completion)
        case .dialing: openings.append(Opening(request: request, completion: completion))
        case .idle, .closed:
            loop.later {
                completion(.failure(ConnectFailure(StreamError(.closed, "the path is down"), isRetryable: true)))
            }
        }
    }

    /// New connections show the credential of `context`. Established ones keep theirs, unless the peer's certificate is revoked in
    /// `context`: they are cut.
    func use(_ context: TLSContext, _ settings: ConnectionSettings) {
        let former = self.context
        self.context = context
        self.settings = settings
        guard !context.trust.hasSameRevocations(as: former.trust) else { return }
        var connections = retiring
        if case .up(let connection) = state { connections.append(connection) }
        overflow?.trust = context.trust
        for connection in connections { connection.end(ifRevokedIn: context.trust) }
    }

    /// Streams that are open or being opened.
    var streamCount: Int {
        var count = openings.count + retiring.reduce(0) { $0 + $1.streamCount }
        if case .up(let connection) = state { count += connection.streamCount }
        overflow?.forEachConnection { count += $0.streamCount }
        return count
    }

    /// Closes the connection of a path that has no streams; ``connect()`` establishes it again.
    func release() {
        guard case .up(let connection) = state else { return }
        state = .idle
        stopUsing()
        connection.close()
    }

    func close() {
        let before = state
        state = .closed
        stopUsing()
        if case .up(let connection) = before { connection.close() }
        for connection in retiring { connection.close() }
        retiring = []
        overflow?.close()
        failOpenings(StreamError(.closed, "the path was closed"))
    }

    private func stopUsing() {
        monitor?.cancel()
        idleTimer?.cancel()
        replacementTimer?.cancel()
        dial?.cancel()
        dial = nil
    }

    // MARK: Establishing

    private func establish() {
        let dial = ConnectionDial(
            to: endpoint("path"),
            configuration: settings.http2(for: .client),
            firstAnswer: Self.firstAnswer,
            on: loop
        )
        self.dial = dial
        dial.start { [weak self, weak dial] result in
            guard let self, let dial, self.dial === dial else { return }
            self.dial = nil
            switch result {
            case .success(let connection): established(connection)
            case .failure(let error): failed(error)
            }
        }
    }

    private func established(_ connection: H2Connection) {
        // Revoked while the handshake ran, which had the trust of its beginning.
        if connection.end(ifRevokedIn: context.trust) {
            return failed(StreamError(.authentication, "the certificate of the peer was revoked"))
        }
        refusals = 0
        peer = connection.peer
        connection.delegate = self
        let before = state
        state = .up(connection)
        switch before {
        case .up(let old):
            retiring.append(old)
            old.retire()
        default: onUp?()
        }
        let openings = self.openings
        self.openings = []
        for opening in openings { open(opening.request, on: connection, opening.completion) }
        watchIdle()
    }

    private func failed(_ error: StreamError) {
        switch state {
        case .dialing:
            // A server that is going away may have taken the connection with its last breath.
            if error.code == .draining, refusals < Self.refusalsInARow {
                refusals += 1
                return establish()
            }
            refusals = 0
            down(error)
        case .up: replacementTimer?.schedule(after: Self.replacementPause)
        case .idle, .closed: break
        }
    }

    private func replace() {
        guard case .up = state, dial == nil else { return }
        establish()
    }

    private func down(_ error: StreamError) {
        losses += 1
        state = .idle
        stopUsing()
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
        if connection.availableStreams > 0 && !(connection.isWindowStalled && settings.perPeer > 1) {
            connection.openStream(request, completion: completion)
        } else {
            openBeside(request, completion)
        }
        if monitor?.isScheduled == false { monitor?.schedule(after: Self.silence) }
    }

    private func endpoint(_ location: String) -> H2Endpoint {
        .over(location, context: context, expecting: expectation) { [dialLower] in dialLower($1) }
    }

    private func openBeside(
        _ request: ConnectRequest,
        _ completion: @escaping (Result<H2Stream, ConnectFailure>) -> Void
    ) {
        do throws(StreamError) {
            let pool: H2ClientPool
            if let overflow {
                pool = overflow
            } else {
                pool = try H2ClientPool(on: loop, configuration: settings.overflow)
                pool.trust = context.trust
            }
            overflow = pool
            pool.openStream(request, to: endpoint("overflow"), completion: completion)
        } catch {
            loop.later { completion(.failure(ConnectFailure(error))) }
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

    // MARK: Idle

    private func watchIdle() {
        guard let timeout = settings.idleTimeout, case .up(let connection) = state, connection.streamCount == 0 else {
            return
        }
        idleTimer?.schedule(after: timeout)
    }

    /// Every stream that ends sets the timer anew: a path that has no stream now has had none for the whole time.
    private func checkIdle() {
        guard case .up = state else { return }
        if streamCount == 0 { onIdle?() }
        // Still up: something else of the peer is in use, so that its owner did not release it.
        watchIdle()
    }

    // MARK: H2ConnectionDelegate

    func connection(_ connection: H2Connection, received request: PendingConnect) {
        // A client is not asked for tunnels; nghttp2 has refused it as a protocol error before.
        request.reject(.denied())
    }

    func connectionIsTooOld(_ connection: H2Connection) {
        guard case .up(let current) = state, current === connection else { return connection.retire() }
        replace()
    }

    func connectionIsDraining(_ connection: H2Connection) {
        guard case .up(let current) = state, current === connection else { return }
        // The path is not lost: its streams go on, and new ones get a new connection.
        retiring.append(connection)
        state = .idle
        connect()
    }

    func connectionHasCapacity(_ connection: H2Connection) {
        if connection.streamCount == 0 { watchIdle() }
    }

    func connection(_ connection: H2Connection, closed reason: StreamError?) {
        if case .up(let current) = state, current === connection {
            down(reason ?? StreamError(.draining, "the peer closed the connection"))
        } else {
            retiring.removeAll { $0 === connection }
        }
    }
}
