package import H2Transport
package import Logging
package import MeshPolicy
package import Platform
package import SSHSignal
package import Streams

/// A stream to a destination behind a peer, and what carries it.
package struct OpenedStream {
    package let stream: ByteStream
    package let path: PathID
}

/// The ways to one peer, and the choice among them: keeps what `PathSelector` asks for connected, opens streams over
/// the path in use, and moves to another when it dies. Confined to its event loop.
///
/// Streams that are open when their path dies go on over the next one, where the other side can do that, too; the
/// others are reset: their bytes may be lost, and a reset says so. Requests that were not answered yet are repeated on
/// the next path, because no byte of theirs has been sent.
package final class PeerPaths {
    /// A stream that somebody waits for.
    final class Request {
        let authority: Authority
        let headers: HeaderFields
        let permits: (PathID) -> StreamError?
        /// The stream that is to go on; nil: a new one.
        var resumption: ClientResumption?
        var attempts = 0
        var completion: ((Result<OpenedStream, StreamError>) -> Void)?

        init(
            authority: Authority,
            headers: HeaderFields,
            permits: @escaping (PathID) -> StreamError?,
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

    package let access: PeerAccess
    /// What the user is told beside a refusal by the peer's policy; nil: nothing.
    package var remedy: ((Authority) -> String?)?
    /// A path that is lost is made again also where nobody has a stream on it.
    package var staysConnected = false
    let loop: EventLoop
    let logger: Logger
    private let onChange: (PathChange) -> Void
    /// Why no stream to that destination may go over that path; nil if it may.
    private let permits: (Authority, PathID) -> StreamError?
    private var settings: ConnectionSettings
    private var selector: PathSelector
    private var waiting: [Request] = []
    /// How many may wait for a path, of one event loop. Peers can ask for streams without end while none comes up.
    private static let waitingLimit = 65_536
    private var sources: [PathID: any PathSource] = [:]
    private let sessions: SessionPool?
    private let outages: ServerOutages
    private var timer: LoopTimer?
    private var isShutDown = false
    /// What uses the peer's SSH sessions beside its paths, and keeps them.
    private var users: [any SessionUser] = []
    let resumptions: Resumptions
    private var isResumable: Bool
    /// Streams that can go on elsewhere.
    var resumable: [ObjectIdentifier: ClientResumption] = [:]

    /// A request is repeated this often when paths die under it; more would be a peer that accepts and dies in a loop.
    private static let attemptsPerRequest = 4

    /// - Parameters:
    ///   - access: The ways to the peer, and whom it must be.
    ///   - context: A client context with the credential to show; nil where `access` names plain `ssh` only.
    ///   - settings: Timeouts and ages of the connections.
    ///   - loop: Where it lives.
    ///   - logger: Told of what each path does.
    ///   - outages: What all loops of a node have in common.
    ///   - resumptions: What all peers of the loop have in common; nil: there are no others.
    ///   - permits: Says why a path may not carry a stream to a destination (policy), or nil; for every stream, beside
    ///     what is asked with it.
    ///   - onChange: Told of each change of path, on the loop.
    package init(
        to access: PeerAccess,
        context: TLSContext?,
        settings: ConnectionSettings = .defaults,
        on loop: EventLoop,
        logger: Logger,
        outages: ServerOutages = ServerOutages(),
        resumptions: Resumptions? = nil,
        permits: @escaping (Authority, PathID) -> StreamError? = { _, _ in nil },
        onChange: @escaping (PathChange) -> Void
    ) {
        precondition(
            context != nil || !access.ways.contains(where: \.needsCredential),
            "only plain ssh needs no credential"
        )
        self.access = access
        self.settings = settings
        self.loop = loop
        self.logger = logger
        self.outages = outages
        isResumable = access.resumable
        self.resumptions =
            resumptions ?? Resumptions(on: loop, timeout: settings.resumeTimeout, logger: logger)
        self.permits = permits
        self.onChange = onChange
        selector = PathSelector(paths: access.ways.map(\.id))
        sessions = access.login.map { SessionPool($0, limit: access.sessions, on: loop, logger: logger) }
        timer = LoopTimer(on: loop) { [weak self] in self?.tick() }
        sessions?.onSessionEnd = { [weak self] session, error in
            for user in self?.users ?? [] { user.sessionEnded(session, error) }
        }
        for way in access.ways {
            guard let source = makeSource(way, context) else { continue }
            source.events = PathEvents(
                up: { [weak self] in self?.cameUp(way.id) },
                down: { [weak self] error, wasUsed in self?.wentDown(way.id, error, wasUsed: wasUsed) },
                rest: { [weak self] in self?.rested(way.id) },
                idle: { [weak self] in self?.releaseIfIdle() }
            )
            sources[way.id] = source
        }
    }

    /// Establishes a path before the first stream asks for one.
    package func start() { perform(selector.wanted(now: loop.now)) }

    /// Why the last SSH login failed, if it did: tells a refused key or host key from an unreachable server.
    package var loginError: SSHError? { sessions?.lastError }

    /// Why paths that were tried do not work, the preferred one first.
    package var failures: [(path: PathID, error: StreamError)] {
        selector.candidates.compactMap { candidate in candidate.lastError.map { (candidate.path, $0) } }
    }

    /// Told, on the loop, of accepted connections that came to nothing; nil: that is logged.
    package var onForwardFailure: ((ForwardFailure) -> Void)?

    func forwardFailed(_ failure: ForwardFailure) {
        if let onForwardFailure { return onForwardFailure(failure) }
        switch failure {
        case .notOpened(let destination, let error): logger.warning("no stream to \(destination): \(error)")
        case .cut(let destination, let error): logger.warning("stream to \(destination) cut: \(error)")
        }
    }

    /// The path that carries new streams; nil while there is none.
    package var pathInUse: PathID? { selector.inUse }

    var candidates: [PathSelector.Candidate] { selector.candidates }

    func source(of path: PathID) -> (any PathSource)? { sources[path] }

    /// Opens a stream to `authority` over the best path, waiting for one where none is up.
    ///
    /// - Parameters:
    ///   - authority: Where the stream is to end.
    ///   - headers: For the CONNECT request; plain SSH carries none.
    ///   - permits: Returns why a path may not carry this stream (policy), or nil.
    ///   - completion: Called once, on the loop, never from inside this call.
    package func openStream(
        to authority: Authority,
        headers: HeaderFields = [:],
        permits: @escaping (PathID) -> StreamError? = { _ in nil },
        completion: @escaping (Result<OpenedStream, StreamError>) -> Void
    ) {
        var completion = completion
        if let remedy {
            completion = { [completion] result in
                completion(
                    result.mapError { error in
                        guard error.code == .denied, let fix = remedy(authority) else { return error }
                        return StreamError(.denied, "\(error.message): \(fix)")
                    }
                )
            }
        }
        var headers = headers
        if settings.resumable, isResumable { headers.append(ResumptionField.name, ResumptionField.offer) }
        let request = Request(authority: authority, headers: headers, permits: permits, completion: completion)
        guard !isShutDown else {
            return loop.later { request.end(.failure(StreamError(.closed, "\(self.access.name): shut down"))) }
        }
        dispatch(request)
    }

    /// New connections show the credential of `context`; established ones keep theirs.
    package func use(_ context: TLSContext, settings: ConnectionSettings? = nil) {
        let settings = settings ?? self.settings
        self.settings = settings
        for source in sources.values { source.use(context, settings) }
    }

    /// Closes every path; streams that are open are reset.
    package func shutDown() {
        guard !isShutDown else { return }
        isShutDown = true
        timer?.cancel()
        let reason = StreamError(.closed, "\(access.name): shut down")
        for resumption in Array(resumable.values) { resumption.end(StreamError(.reset, reason.message)) }
        for user in users { user.stop() }
        failWaiting(reason)
        let close = { [sources, sessions] in
            for source in sources.values { source.reset() }
            sessions?.close()
        }
        // The peers of streams that were reset just now are told so, or they would wait for them.
        if settings.resumable, sources.values.contains(where: { $0.streamCount > 0 }) {
            loop.later(close)
        } else {
            close()
        }
    }

    // MARK: Requests

    func dispatch(_ request: Request) {
        guard let path = selector.inUse else {
            guard waiting.count < Self.waitingLimit else {
                let full = StreamError(.limit, "\(access.name): \(Self.waitingLimit) streams wait for a path already")
                return loop.later { request.end(.failure(full)) }
            }
            waiting.append(request)
            for source in sources.values { source.expect(request.headers) }
            return perform(selector.wanted(now: loop.now))
        }
        request.attempts += 1
        if let refusal = request.permits(path) ?? permits(request.authority, path) {
            return loop.later { request.end(.failure(refusal)) }
        }
        guard let source = sources[path] else { return again(request, nil) }
        let completion = { [weak self] (result: Result<ByteStream, PathFailure>) in
            switch result {
            case .success(let stream):
                let stream = self?.resumable(stream, over: path, request) ?? stream
                request.end(.success(OpenedStream(stream: stream, path: path)))
            case .failure(.refused(let error)): request.end(.failure(error))
            case .failure(.pathLost(let error)):
                guard let self else {
                    return request.end(.failure(error ?? StreamError(.closed, "the path is down")))
                }
                again(request, error)
            }
        }
        guard let resumption = request.resumption else {
            return source.open(to: request.authority, headers: request.headers, completion: completion)
        }
        guard path.transport != .ssh else {
            return loop.later {
                completion(.failure(.refused(StreamError(.unreachable, "plain SSH resumes no stream"))))
            }
        }
        guard let headers = resumption.nextHeaders() else {
            let error = StreamError(.badRequest, "\(access.name) has given no ticket to resume the stream with")
            return loop.later { completion(.failure(.refused(error))) }
        }
        source.resume(to: request.authority, headers: headers, at: resumption.server, completion: completion)
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

    private func cameUp(_ path: PathID) { perform(selector.cameUp(path, now: loop.now)) }

    private func wentDown(_ path: PathID, _ error: StreamError, wasUsed: Bool) {
        logger.debug("path down", metadata: ["peer": "\(access.name)", "path": "\(path)", "reason": "\(error)"])
        perform(selector.wentDown(path, error, isWanted: wasUsed || isUsed || staysConnected, now: loop.now))
    }

    /// The peer has let go of a path. Where nobody uses another one either, everything is let go, as after
    /// ``ConnectionSettings/idleTimeout``.
    private func rested(_ path: PathID) {
        logger.debug("path at rest", metadata: ["peer": "\(access.name)", "path": "\(path)"])
        perform(selector.rested(path, now: loop.now))
        if selector.inUse == nil, settings.idleTimeout != nil { releaseIfIdle() }
    }

    /// Somebody waits for a stream, or has one.
    private var isUsed: Bool {
        !waiting.isEmpty || sources.values.contains { $0.streamCount > 0 }
            || resumable.values.contains { !$0.stream.isAttached }
    }

    private func perform(_ actions: [PathSelector.Action]) {
        guard !isShutDown else { return }
        for action in actions {
            switch action {
            case .connect(let path): sources[path]?.establish()
            case .use(let path, let before, let reason):
                onChange(.using(path, insteadOf: before, reason: reason, peer: sources[path]?.peer))
                let requests = waiting
                waiting = []
                for request in requests { dispatch(request) }
                moveStreams(to: path, because: reason)
            case .unreachable(let error):
                onChange(.unreachable(error))
                failWaiting(error)
            case .refused(let error):
                onChange(.refused(error))
                // Whatever else is up leads to the same peer.
                for source in sources.values { source.reset() }
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

    /// The one place that knows which kinds of way there are.
    private func makeSource(_ way: PathWay, _ context: TLSContext?) -> (any PathSource)? {
        switch way.reach {
        case .ssh: return sessions.map { SSHSource(over: $0) }
        case .servers(let servers):
            guard let context else { return nil }
            let transport = way.id.transport
            return ServersSource(
                name: access.name,
                to: servers,
                on: loop,
                logger: logger,
                context: context,
                settings: settings,
                outages: outages
            ) {
                [weak self, loop, expectation = access.expectation] server, context, settings in
                // Its paths are gone: nothing is dialled any more.
                let gone: TunnelSource.LowerDialer = { $0(.failure(StreamError(.closed, "shut down"))) }
                let source = TunnelSource(
                    over: self?.dialer([server]) ?? gone,
                    again: self?.dialer([server], segmentLimit: SocketOptions.smallSegment),
                    as: transport,
                    context: context,
                    expecting: expectation,
                    settings: settings,
                    on: loop
                )
                self?.watch(source)
                return source
            }
        case .proxy:
            guard let context, let proxy = access.proxy else { return nil }
            return ProxiedSource(
                proxy,
                over: dialer(proxy.addresses),
                again: dialer(proxy.addresses, segmentLimit: SocketOptions.smallSegment),
                context: context,
                expecting: access.expectation,
                settings: settings,
                on: loop,
                logger: logger
            )
        case .gateways(let gateways, let single):
            guard let context else { return nil }
            return makeGatewaySource(gateways, single, context)
        case .tunnel, .tunnelOverSSH:
            guard let context else { return nil }
            let source = TunnelSource(
                over: lowerDialer(way.reach),
                again: smallerDialer(way.reach),
                as: way.id.transport,
                context: context,
                expecting: access.expectation,
                settings: settings,
                on: loop
            )
            watch(source)
            return source
        }
    }

    private func watch(_ source: TunnelSource) {
        source.onDoubt = { [weak self] in self?.moveStreams(from: $0, because: $1.message) }
    }

    private func makeGatewaySource(
        _ gateways: [Gateway],
        _ single: Authority?,
        _ context: TLSContext
    ) -> GatewaySource {
        let first = [gateways[0].address]
        return GatewaySource(
            through: gateways,
            to: single,
            expecting: access.expectation,
            marks: access.marks,
            over: dialer(first),
            again: dialer(first, segmentLimit: SocketOptions.smallSegment),
            context: context,
            settings: settings,
            on: loop
        ) { [weak self, loop] dial, dialAgain, expectation, context, settings in
            let source = TunnelSource(
                over: dial,
                again: dialAgain,
                as: .h2ViaGateway,
                context: context,
                expecting: expectation,
                settings: settings,
                on: loop
            )
            self?.watch(source)
            return source
        }
    }

    /// The servers of a destination are others now; whatever else there is to know of the peer is as it was.
    package func use(_ access: PeerAccess) {
        isResumable = access.resumable
        for way in access.ways {
            switch way.reach {
            case .servers(let servers): (sources[way.id] as? ServersSource)?.use(servers)
            case .gateways: (sources[way.id] as? GatewaySource)?.use(access.marks)
            case .proxy: if let proxy = access.proxy { (sources[way.id] as? ProxiedSource)?.use(proxy) }
            case .tunnel, .tunnelOverSSH, .ssh: break
            }
        }
    }

    private func dialer(_ addresses: [Authority], segmentLimit: Int? = nil) -> TunnelSource.LowerDialer {
        { [weak self, loop, first = settings] completion in
            let timeout = (self?.settings ?? first).connectTimeout
            DialList(addresses, on: loop, timeout: timeout, segmentLimit: segmentLimit, completion: completion).start()
        }
    }

    /// How large the packets of an SSH session are is not for what runs inside it to say.
    private func smallerDialer(_ reach: PathWay.Reach) -> TunnelSource.LowerDialer? {
        guard case .tunnel(let addresses) = reach else { return nil }
        return dialer(addresses, segmentLimit: SocketOptions.smallSegment)
    }

    private func lowerDialer(_ reach: PathWay.Reach) -> TunnelSource.LowerDialer {
        switch reach {
        case .tunnel(let addresses): return dialer(addresses)
        case .tunnelOverSSH(let port):
            guard let sessions else { break }
            let dialer = ChannelDialer(
                to: port,
                relayCommand: access.relayCommand,
                over: sessions,
                on: loop,
                logger: logger
            )
            dialer.onRelay = { [weak self] reason in self?.onChange(.relaying(reason: reason)) }
            sessions.onGrowth = { [weak dialer] in dialer?.widen() }
            return { dialer.dial($0) }
        case .ssh, .servers, .proxy, .gateways: break
        }
        return { [loop] completion in
            loop.later { completion(.failure(StreamError(.unreachable, "there is no SSH login"))) }
        }
    }

    /// Peers that nobody talks to cost no connection, and no PING every few seconds.
    private func releaseIfIdle() {
        guard !isUsed, users.isEmpty else { return }
        selector.released()
        for source in sources.values { source.release() }
        sessions?.disconnect()
        logger.debug("released", metadata: ["peer": "\(access.name)", "idle for": "\(settings.idleTimeout ?? .zero)"])
        perform([])
    }

    /// Connects the SSH session, whichever path is in use.
    func withSession(_ why: String, _ completion: @escaping (Result<any SSHConnection, StreamError>) -> Void) {
        guard let sessions else {
            return completion(.failure(StreamError(.unreachable, "\(access.name) has no SSH login: \(why)")))
        }
        sessions.connect(completion)
    }

    /// Keeps `user`, which holds a session open beside the paths, until the peer is shut down.
    func keep(_ user: any SessionUser) { users.append(user) }

    /// Ends `user`, and keeps it no longer.
    func drop(_ user: any SessionUser) {
        user.stop()
        users.removeAll { $0 === user }
    }
}

/// Something that needs an SSH session of a peer, whichever path is in use. Confined to the peer's loop.
protocol SessionUser: AnyObject {
    /// A session has ended by itself.
    func sessionEnded(_ session: any SSHConnection, _ error: StreamError)
    func stop()
}
