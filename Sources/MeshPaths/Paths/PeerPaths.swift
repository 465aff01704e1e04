public import H2Transport
public import Logging
import MeshIdentity
public import MeshPolicy
public import Platform
public import SSHSignal
public import Streams

/// A stream to a destination behind a peer, and what carries it.
public struct OpenedStream {
    public let stream: ByteStream
    public let transport: Transport
}

/// The ways to one peer, and the choice among them: keeps what `PathSelector` asks for connected, opens streams over the
/// path in use, and moves to another when it dies. Confined to its event loop.
///
/// Streams that are open when their path dies are reset: their bytes may be lost, and a reset says so. Requests that were not
/// answered yet are repeated on the next path, because no byte of theirs has been sent.
public final class PeerPaths {
    /// A stream that somebody waits for.
    final class Request {
        let authority: Authority
        let headers: HeaderFields
        let permits: (Transport) -> StreamError?
        var attempts = 0
        var completion: ((Result<OpenedStream, StreamError>) -> Void)?

        init(
            authority: Authority,
            headers: HeaderFields,
            permits: @escaping (Transport) -> StreamError?,
            completion: @escaping (Result<OpenedStream, StreamError>) -> Void
        ) {
            self.authority = authority
            self.headers = headers
            self.permits = permits
            self.completion = completion
        }

        func end(_ result: Result<OpenedStream, StreamError>) {
            guard let completion else { return }
            self.completion = nil
            completion(result)
        }
    }

    public let access: PeerAccess
    let loop: EventLoop
    let logger: Logger
    private let onChange: (PathChange) -> Void
    private var context: TLSContext?
    private var settings: ConnectionSettings
    private var selector: PathSelector
    private var waiting: [Request] = []
    private var tunnels: [Transport: TunnelPath] = [:]
    private let sessions: SessionPool?
    private var striping: Striping?
    /// Streams that plain SSH carries, for as long as somebody has them.
    private var channels: [WeakStream] = []
    private var timer: LoopTimer?
    private var isShutDown = false
    /// Ports of the far side that are kept open.
    var remoteForwardings: [RemoteForwarding] = []

    /// A request is repeated this often when paths die under it; more would be a peer that accepts and dies in a loop.
    private static let attemptsPerRequest = 4

    /// - Parameters:
    ///   - context: A client context with the credential to show; nil where `access` names plain `ssh` only.
    ///   - settings: Timeouts and ages of the connections.
    ///   - onChange: Told of each change of path, on the loop.
    ///   - loop: Where it lives.
    ///   - logger: Told of what each path does.
    ///   - access: The ways to the peer, and whom it must be.
    public init(
        to access: PeerAccess,
        context: TLSContext?,
        settings: ConnectionSettings = .defaults,
        on loop: EventLoop,
        logger: Logger,
        onChange: @escaping (PathChange) -> Void
    ) {
        precondition(context != nil || access.transports == [.ssh], "only plain ssh needs no credential")
        self.access = access
        self.context = context
        self.settings = settings
        self.loop = loop
        self.logger = logger
        self.onChange = onChange
        selector = PathSelector(transports: access.transports)
        sessions = access.login.map { SessionPool($0, limit: access.sessions, on: loop, logger: logger) }
        timer = LoopTimer(on: loop) { [weak self] in self?.tick() }
        sessions?.onSessionEnd = { [weak self] session, error in
            for forwarding in self?.remoteForwardings ?? [] { forwarding.sessionEnded(session, error) }
        }
        // Tunnels inside of it notice by themselves.
        sessions?.onEnd = { [weak self] error in self?.wentDown(.ssh, error) }
        sessions?.onGrowth = { [weak self] in self?.striping?.widen() }
    }

    /// Establishes a path before the first stream asks for one.
    public func start() { perform(selector.wanted(now: loop.now)) }

    /// Why the last SSH login failed, if it did: tells a refused key or host key from an unreachable server.
    public var loginError: SSHError? { sessions?.lastError }

    /// The transport that carries new streams; nil while there is none.
    public var transportInUse: Transport? { selector.inUse }

    /// Opens a stream to `authority` over the best path, waiting for one where none is up.
    ///
    /// - Parameters:
    ///   - headers: For the CONNECT request; plain SSH carries none.
    ///   - permits: Returns why a transport may not carry this stream (policy), or nil.
    ///   - completion: Called once, on the loop, never from inside this call.
    ///   - authority: Where the stream is to end.
    public func openStream(
        to authority: Authority,
        headers: HeaderFields = [:],
        permits: @escaping (Transport) -> StreamError? = { _ in nil },
        completion: @escaping (Result<OpenedStream, StreamError>) -> Void
    ) {
        let request = Request(authority: authority, headers: headers, permits: permits, completion: completion)
        guard !isShutDown else {
            return loop.later { request.end(.failure(StreamError(.closed, "\(self.access.name): shut down"))) }
        }
        dispatch(request)
    }

    /// New connections show the credential of `context`; established ones keep theirs.
    public func use(_ context: TLSContext, settings: ConnectionSettings? = nil) {
        let settings = settings ?? self.settings
        self.context = context
        self.settings = settings
        for tunnel in tunnels.values { tunnel.use(context, settings) }
    }

    /// Closes every path; streams that are open are reset.
    public func shutDown() {
        guard !isShutDown else { return }
        isShutDown = true
        timer?.cancel()
        for tunnel in tunnels.values { tunnel.close() }
        tunnels = [:]
        for forwarding in remoteForwardings { forwarding.stop() }
        sessions?.close()
        failWaiting(StreamError(.closed, "\(access.name): shut down"))
    }

    // MARK: Requests

    private func dispatch(_ request: Request) {
        guard let transport = selector.inUse else {
            waiting.append(request)
            return perform(selector.wanted(now: loop.now))
        }
        request.attempts += 1
        if let refusal = request.permits(transport) {
            return loop.later { request.end(.failure(refusal)) }
        }
        switch transport {
        case .h2, .h2OverSSH: openTunnel(request, transport)
        case .ssh: openChannel(request)
        }
    }

    private func openTunnel(_ request: Request, _ transport: Transport) {
        guard let tunnel = tunnels[transport] else { return again(request, nil) }
        let losses = tunnel.losses
        tunnel.open(ConnectRequest(to: request.authority, headers: request.headers)) { [weak self] result in
            switch result {
            case .success(let stream): request.end(.success(OpenedStream(stream: stream, transport: transport)))
            case .failure(let failure):
                guard let self else { return request.end(.failure(failure.error)) }
                // Whether the path died under the request is known once the connection has reported its end. Without an
                // answer none of the stream's bytes has been sent, so that another path may ask again.
                loop.later {
                    let pathWasLost = failure.response == nil && tunnel.losses != losses
                    guard failure.isRetryable || pathWasLost else { return request.end(.failure(failure.error)) }
                    self.again(request, failure.error)
                }
            }
        }
    }

    private func openChannel(_ request: Request) {
        guard let session = sessions?.leastLoaded else { return again(request, nil) }
        session.openDirectTCPIP(host: request.authority.host, port: request.authority.port) { [weak self] result in
            switch result {
            case .success(let channel):
                self?.channels.removeAll { $0.stream == nil }
                self?.channels.append(WeakStream(channel))
                request.end(.success(OpenedStream(stream: channel, transport: .ssh)))
            case .failure(let error):
                guard let self, !session.isOpen else { return request.end(.failure(error)) }
                again(request, error)
            }
        }
    }

    /// The path died under the request: wait for the next one.
    private func again(_ request: Request, _ error: StreamError?) {
        guard !isShutDown, request.attempts < Self.attemptsPerRequest else {
            let reason = error ?? StreamError(.unreachable, "\(access.name): no path")
            return loop.later { request.end(.failure(reason)) }
        }
        loop.later { [weak self] in self?.dispatch(request) }
    }

    private func failWaiting(_ error: StreamError) {
        let requests = waiting
        waiting = []
        for request in requests { request.end(.failure(error)) }
    }

    // MARK: Paths

    private func tick() { perform(selector.tick(now: loop.now)) }

    private func cameUp(_ transport: Transport) { perform(selector.cameUp(transport, now: loop.now)) }

    private func wentDown(_ transport: Transport, _ error: StreamError) {
        logger.debug("path down", metadata: ["peer": "\(access.name)", "path": "\(transport)", "reason": "\(error)"])
        perform(selector.wentDown(transport, error, now: loop.now))
    }

    private func perform(_ actions: [PathSelector.Action]) {
        guard !isShutDown else { return }
        for action in actions {
            switch action {
            case .connect(let transport): connect(transport)
            case .use(let transport, let before, let reason):
                onChange(.using(transport, insteadOf: before, reason: reason, peer: tunnels[transport]?.peer))
                let requests = waiting
                waiting = []
                for request in requests { dispatch(request) }
            case .unreachable(let error):
                onChange(.unreachable(error))
                failWaiting(error)
            case .refused(let error):
                onChange(.refused(error))
                // Whatever else is up leads to the same peer.
                for tunnel in tunnels.values { tunnel.close() }
                tunnels = [:]
                sessions?.disconnect()
                failWaiting(error)
            }
        }
        if let deadline = selector.nextDeadline {
            timer?.schedule(after: .nanoseconds(Int64(clamping: deadline &- min(deadline, loop.now))))
        } else {
            timer?.cancel()
        }
    }

    private func connect(_ transport: Transport) {
        switch transport {
        case .h2, .h2OverSSH:
            guard let context else { return }
            let tunnel = tunnels[transport] ?? makeTunnel(transport, context)
            tunnels[transport] = tunnel
            tunnel.connect()
        case .ssh:
            sessions?.connect { [weak self] result in
                switch result {
                case .success: self?.cameUp(.ssh)
                case .failure(let error): self?.wentDown(.ssh, error)
                }
            }
        }
    }

    private func makeTunnel(_ transport: Transport, _ context: TLSContext) -> TunnelPath {
        let lower = transport == .h2 ? directDialer() : channelDialer()
        let tunnel = TunnelPath(
            over: lower,
            context: context,
            expecting: access.expectation,
            settings: settings,
            on: loop
        )
        tunnel.onUp = { [weak self] in self?.cameUp(transport) }
        tunnel.onDown = { [weak self] error in self?.wentDown(transport, error) }
        tunnel.onIdle = { [weak self] in self?.releaseIfIdle() }
        return tunnel
    }

    /// Peers that nobody talks to cost no connection, and no PING every few seconds.
    private func releaseIfIdle() {
        channels.removeAll { $0.stream == nil }
        guard waiting.isEmpty, channels.isEmpty, remoteForwardings.isEmpty,
            tunnels.values.allSatisfy({ $0.streamCount == 0 })
        else { return }
        selector.released()
        for tunnel in tunnels.values { tunnel.release() }
        sessions?.disconnect()
        logger.debug("released", metadata: ["peer": "\(access.name)", "idle for": "\(settings.idleTimeout ?? .zero)"])
        perform([])
    }

    private func directDialer() -> TunnelPath.LowerDialer {
        let (addresses, loop, timeout) = (access.hbone, loop, settings.connectTimeout)
        return { completion in
            DialList(addresses, on: loop, timeout: timeout, completion: completion).start()
        }
    }

    /// The peer's HBONE server as its own machine reaches it.
    private func channelDialer() -> TunnelPath.LowerDialer {
        let port = access.hbone.first?.port ?? 15008
        let relay = AgentRelay(
            port: port,
            command: access.relayCommand,
            on: loop,
            logger: logger
        )
        relay.onRelay = { [weak self] reason in self?.onChange(.relaying(reason: reason)) }
        guard let sessions else {
            return { $0(.failure(StreamError(.unreachable, "there is no SSH login"))) }
        }
        let striping = Striping(port: port, over: sessions, logger: logger)
        self.striping = striping
        return { [weak sessions] completion in
            guard let sessions else {
                return completion(.failure(StreamError(.closed, "the SSH sessions were shut down")))
            }
            sessions.connect { result in
                switch result {
                case .success(let session):
                    relay.open(over: session) { result in
                        guard case .success(let stream) = result, !relay.isNeeded(for: session) else {
                            return completion(result)
                        }
                        striping.stripe(stream, over: session, completion) {
                            relay.open(over: session, completion: completion)
                        }
                    }
                case .failure(let error): completion(.failure(error))
                }
            }
        }
    }

    /// Connects the SSH session, whichever path is in use.
    func withSession(_ why: String, _ completion: @escaping (Result<any SSHConnection, StreamError>) -> Void) {
        guard let sessions else {
            return completion(.failure(StreamError(.unreachable, "\(access.name) has no SSH login: \(why)")))
        }
        sessions.connect(completion)
    }
}

/// A stream that somebody else keeps.
private struct WeakStream {
    private(set) weak var stream: ByteStream?

    init(_ stream: ByteStream) { self.stream = stream }
}
