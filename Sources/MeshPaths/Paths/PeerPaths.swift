package import H2Transport
package import Logging
package import MeshPolicy
package import Platform
package import SSHSignal
package import Streams

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
        /// Who looks for a path, and which one was asked; nil before and after.
        fileprivate var asked: (paths: PeerPaths, path: PathID)?

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
            asked = nil
            completion(result)
        }

        /// What the path that was asked says.
        fileprivate func answered(_ result: Result<ByteStream, PathFailure>) {
            guard let (paths, path) = asked else { return }
            switch result {
            case .success(let stream):
                let stream = paths.resumable(stream, over: path, self) ?? stream
                end(.success(OpenedStream(stream: stream, path: path)))
            case .failure(.refused(let error)): end(.failure(error))
            case .failure(.pathLost(let error)): paths.again(self, error)
            }
        }
    }

    package let access: PeerAccess
    /// What the user is told beside a refusal by the peer's policy; nil: nothing.
    package var remedy: ((Authority) -> String?)?
    /// A path that is lost is made again also where nobody has a stream on it.
    package var staysConnected = false
    let loop: EventLoop
    let logger: Logger
    let onChange: (PathChange) -> Void
    /// Why no stream to that destination may go over that path; nil if it may.
    private let permits: (Authority, PathID) -> StreamError?
    private(set) var settings: ConnectionSettings
    private var selector: PathSelector
    private var waiting: [Request] = []
    /// How many may wait for a path, of one event loop. Peers can ask for streams without end while none comes up.
    private static let waitingLimit = 65_536
    private var sources: [PathID: any PathSource] = [:]
    /// The one that was asked for last: the name of a path is a text.
    private var lastSource: (path: PathID, source: any PathSource)?
    let sessions: SessionPool?
    let outages: ServerOutages
    let held: HeldConnections?
    private var timer: LoopTimer?
    private var standbyTimer: LoopTimer?
    private var isShutDown = false
    /// Accepted connections of this side that have a stream, also one over SSH beside the paths, or wait for it.
    var carried = 0
    let meter = ForwardMeter()
    /// Whether the connection that was made last is of Multipath TCP; nil: that was not asked for.
    var isMultipath: Bool?
    /// Since when the path in use is, on the loop's clock, and why.
    private(set) var use: (since: UInt64, reason: String)?
    /// What uses the peer's SSH sessions beside its paths, and keeps them.
    private var users: [any SessionUser] = []
    /// Connections that are being made.
    var dials: [WeakDial] = []
    /// Of the peer's HBONE server; nil where path `h2` leads to none of its own.
    var addresses: PeerAddresses?
    /// Gateways that lead to it by its own word.
    var offered = OfferedGateways()
    /// Of path `h2-over-ssh`.
    weak var channelDialer: ChannelDialer?
    /// With the credential that is shown now.
    private(set) var context: TLSContext?
    /// Of ``addresses``, those that have taken a connection of which nothing is known yet, and since when each was
    /// dialled.
    var connected: [(address: Authority, since: UInt64)] = []
    /// nil where nobody is there to ask.
    private var negotiation: PathNegotiation?
    /// Told, on the loop, what the peer has said of how it is reached.
    package var onNegotiated: ((NegotiatedAddresses) -> Void)?
    /// Told, on the loop, of an address that the peer has named and where it has proven who it is.
    package var onProven: ((Authority) -> Void)?
    /// The same of a gateway.
    package var onProvenGateway: ((PeerOffer.Gateway) -> Void)?
    let resumptions: Resumptions
    private var isResumable: Bool
    /// Streams that can go on elsewhere.
    var resumable: ContiguousArray<ClientResumption> = []

    /// A request is repeated this often when paths die under it; more would be a peer that accepts and dies in a loop.
    private static let attemptsPerRequest = 4
    /// How often it is looked whether that which stands by is there.
    private static let standbyPause: Duration = .seconds(15)

    /// - Parameters:
    ///   - access: The ways to the peer, and whom it must be.
    ///   - context: A client context with the credential to show; nil where `access` names plain `ssh` only.
    ///   - settings: Timeouts and ages of the connections.
    ///   - loop: Where it lives.
    ///   - logger: Told of what each path does.
    ///   - outages: What all loops of a node have in common.
    ///   - held: The connections that peers hold to this node; nil: none can.
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
        held: HeldConnections? = nil,
        resumptions: Resumptions? = nil,
        permits: @escaping (Authority, PathID) -> StreamError? = { _, _ in nil },
        onChange: @escaping (PathChange) -> Void
    ) {
        precondition(
            context != nil || !access.ways.contains(where: \.needsCredential),
            "only plain ssh needs no credential"
        )
        self.access = access
        self.context = context
        self.settings = settings
        self.loop = loop
        self.logger = logger
        self.outages = outages
        self.held = held
        isResumable = access.resumable
        self.resumptions =
            resumptions ?? Resumptions(on: loop, timeout: settings.resumeTimeout, logger: logger)
        self.permits = permits
        self.onChange = onChange
        selector = PathSelector(paths: access.ways.map(\.id))
        sessions = access.login.map { SessionPool($0, limit: access.sessions, on: loop, logger: logger) }
        timer = LoopTimer(on: loop) { [weak self] in self?.tick() }
        standbyTimer = LoopTimer(on: loop) { [weak self] in self?.standBy() }
        for case .tunnel(let recorded) in access.ways.map(\.reach) { addresses = PeerAddresses(recorded) }
        if let command = access.signalCommand, let sessions, addresses != nil {
            negotiation = PathNegotiation(command, transports: access.ways.map(\.id.transport), of: self)
            sessions.onOpen = { [weak self] session in
                // What asked for the session comes first.
                self?.loop.later { self?.negotiate(over: session, isNew: true) }
            }
        }
        sessions?.onSessionEnd = { [weak self] session, error in
            for user in self?.users ?? [] { user.sessionEnded(session, error) }
        }
        for way in access.ways { makeSource(way) }
        takeRecordedGateways()
    }

    private func makeSource(_ way: PathWay) {
        guard let source = makeSource(way, context) else { return }
        source.events = PathEvents(
            up: { [weak self] in self?.cameUp(way.id) },
            down: { [weak self] error, wasUsed in self?.wentDown(way.id, error, wasUsed: wasUsed) },
            rest: { [weak self] in self?.rested(way.id) },
            idle: { [weak self] in self?.releaseIfIdle() }
        )
        sources[way.id] = source
    }

    /// Whether a way is the peer's own word.
    func isOffered(_ path: PathID) -> Bool { !access.ways.contains { $0.id == path } }

    /// More ways have become known.
    func add(_ ways: [PathWay]) {
        for way in ways where sources[way.id] == nil { makeSource(way) }
        selector.add(ways.map(\.id))
    }

    /// These are none any more; one that is up, or has streams, stays for as long as it is.
    func remove(_ paths: [PathID]) {
        for path in paths {
            guard sources[path]?.streamCount ?? 0 == 0, selector.remove(path) else { continue }
            if lastSource?.path == path { lastSource = nil }
            sources.removeValue(forKey: path)?.reset()
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
        // A gateway that asks for its client has said so.
        if settings.resumable, isResumable, headers[ResumptionField.name] == nil {
            if headers.isEmpty {
                headers = ResumptionField.offerAlone
            } else {
                headers.append(ResumptionField.name, ResumptionField.offer)
            }
        }
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
        self.context = context
        for source in sources.values { source.use(context, settings) }
    }

    /// Addresses or routes of this machine have changed: a path that is dead is left at once, one that was is tried.
    package func networkChanged(_ change: NetworkChange) {
        guard !isShutDown else { return }
        dials.removeAll { $0.list == nil }
        for dial in dials { dial.list?.hurry() }
        for source in Array(sources.values) { source.networkChanged(change) }
        sessions?.networkChanged()
        perform(selector.networkChanged(isWanted: isUsed || staysConnected, now: loop.now))
        for resumption in Array(resumable) { resumption.hurry() }
    }

    /// An SSH session that is open.
    var openSession: (any SSHConnection)? { sessions?.leastLoaded }

    private func negotiate(over session: any SSHConnection, isNew: Bool = false) {
        guard !isShutDown, session.isOpen, pathInUse?.transport != .h2 else { return }
        negotiation?.ask(over: session, isNew: isNew)
    }

    /// A better path may be there now.
    func tryBetter() {
        guard !isShutDown else { return }
        perform(selector.networkChanged(isWanted: isUsed || staysConnected, now: loop.now))
    }

    /// Closes every path; streams that are open are reset.
    package func shutDown() {
        guard !isShutDown else { return }
        isShutDown = true
        timer?.cancel()
        standbyTimer?.cancel()
        negotiation?.stop()
        let reason = StreamError(.closed, "\(access.name): shut down")
        for resumption in Array(resumable) { resumption.end(StreamError(.reset, reason.message)) }
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
        guard let path = request.resumption == nil ? selector.inUse : selector.resuming else {
            guard waiting.count < Self.waitingLimit else {
                let full = StreamError(.limit, "\(access.name): \(Self.waitingLimit) streams wait for a path already")
                return loop.later { request.end(.failure(full)) }
            }
            waiting.append(request)
            for source in sources.values { source.expect(request.headers) }
            return perform(selector.wanted(now: loop.now))
        }
        request.attempts += 1
        if let refusal = refusal(of: request, over: path) { return loop.later { request.end(.failure(refusal)) } }
        guard let source = usedSource(of: path) else { return again(request, nil) }
        request.asked = (self, path)
        // It holds the request alone, and costs no memory of its own by that.
        let completion = { (result: Result<ByteStream, PathFailure>) in request.answered(result) }
        guard let resumption = request.resumption else {
            return source.open(to: request.authority, headers: request.headers, completion: completion)
        }
        guard path.transport.resumesStreams else {
            let error = StreamError(.unreachable, "\(path.transport) resumes no stream")
            return loop.later { completion(.failure(.refused(error))) }
        }
        guard let headers = resumption.nextHeaders() else {
            let error = StreamError(.badRequest, "\(access.name) has given no ticket to resume the stream with")
            return loop.later { completion(.failure(.refused(error))) }
        }
        source.resume(to: request.authority, headers: headers, at: resumption.home, completion: completion)
    }

    /// Why no stream of `request` may go over `path`, by what holds now; nil if it may.
    func refusal(of request: Request, over path: PathID) -> StreamError? {
        request.permits(path) ?? permits(request.authority, path)
    }

    func usedSource(of path: PathID) -> (any PathSource)? {
        if let lastSource, lastSource.path == path { return lastSource.source }
        guard let source = sources[path] else { return nil }
        lastSource = (path, source)
        return source
    }

    /// The path died under the request: wait for the next one.
    fileprivate func again(_ request: Request, _ error: StreamError?) {
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

    private func cameUp(_ path: PathID) {
        proven(path)
        perform(selector.cameUp(path, now: loop.now))
        if path.transport == .h2OverSSH, let inUse = selector.inUse, inUse != path {
            logger.debug("a path stands by", metadata: ["peer": "\(access.name)", "path": "\(path)"])
        }
        // Streams whose carrier is gone or does not answer, and that have none to expect of the path in use, wait for
        // no proof that this one stays.
        guard selector.resuming == path, selector.inUse != path else { return }
        for resumption in Array(resumable) {
            guard let stream = resumption.stream, !stream.isAttached || resumption.isInDoubt else { continue }
            resumption.ask(because: "\(path) is there")
        }
    }

    private func wentDown(_ path: PathID, _ cause: StreamError, wasUsed: Bool) {
        let error = explained(cause, of: path)
        logger.debug("path down", metadata: ["peer": "\(access.name)", "path": "\(path)", "reason": "\(error)"])
        perform(selector.wentDown(path, error, isWanted: wasUsed || isUsed || staysConnected, now: loop.now))
        // Whoever answered in its place is not dialled again: the others need not wait.
        if error.code != cause.code { tryBetter() }
        if path.transport == .h2, let session = openSession { negotiate(over: session) }
    }

    /// With ``ConnectionSettings/standby`` the way around `h2` is always made ready, or made again: whatever has ended
    /// it, or kept it from being made, is looked for as long as `h2` is used.
    private func standBy() {
        guard settings.standby, !isShutDown, let path = pathInUse, path.transport == .h2 else { return }
        standbyTimer?.schedule(after: Self.standbyPause)
        loop.later { [weak self] in self?.suspected(path) }
    }

    /// It has accepted this side over some path, and has streams that go on: whatever proves the same of another way to
    /// it need not be waited for.
    var knowsPeer: Bool { !resumable.isEmpty }

    /// What the way around a path takes to be made.
    func preparation(_ roundTripTime: Duration?) -> Duration {
        let login: Duration? = sessions == nil || openSession != nil ? Duration.zero : sessions?.loginTime
        return AnswerTime.preparation(roundTripTime, login: login)
    }

    /// The path in use has not answered yet. By the time that it is in doubt, the streams that can go on over SSH have
    /// half of the way there behind them; as long as nobody has to be asked anything for it.
    func suspected(_ path: PathID) {
        guard !isShutDown, settings.standby || !resumable.isEmpty, selector.inUse == path else { return }
        perform(selector.suspected(path, overSSH: false, now: loop.now))
        guard access.ways.contains(where: { $0.id.transport == .h2OverSSH }) else { return }
        if openSession == nil {
            logger.debug("logs in ahead", metadata: ["peer": "\(access.name)", "path": "\(path)"])
        }
        sessions?.warm { [weak self] isThere in
            guard let self, isThere, !isShutDown else { return }
            perform(selector.suspected(path, now: loop.now))
        }
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
            || resumable.contains { !$0.stream.isAttached }
    }

    /// Whether a stream is open, or asked for, on a path or beside them.
    package var hasStreams: Bool { isUsed || carried > 0 || users.contains { $0.streamCount > 0 } }

    private func perform(_ actions: [PathSelector.Action]) {
        guard !isShutDown else { return }
        for action in actions {
            switch action {
            case .connect(let path): sources[path]?.establish()
            case .use(let path, let before, let reason):
                use = (loop.now, reason)
                onChange(.using(path, insteadOf: before, reason: reason, peer: sources[path]?.peer))
                let requests = waiting
                waiting = []
                for request in requests { dispatch(request) }
                moveStreams(to: path, because: reason)
                negotiation?.pathChanged(to: path)
                standBy()
            case .unreachable(let error):
                onChange(.unreachable(error))
                failWaiting(error)
            case .refused(let error):
                onChange(.refused(error))
                // Whatever else is up leads to the same peer.
                var keeps = false
                for source in sources.values where source.distrust() { keeps = true }
                // What goes on may go through one of them.
                if !keeps { sessions?.disconnect() }
                failWaiting(error)
            }
        }
        if let deadline = selector.nextDeadline {
            timer?.schedule(after: .nanoseconds(Int64(clamping: deadline &- min(deadline, loop.now))))
        } else {
            timer?.cancel()
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
            case .tunnel, .tunnelOverSSH, .gateway, .held, .ssh: break
            }
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
    /// What the far side has connected, and is open.
    var streamCount: Int { get }
}
