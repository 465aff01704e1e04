import H2Transport
import Logging
import MeshIdentity
import MeshPolicy
import Platform
import Streams

/// `h2` to a destination with several servers: a ``TunnelSource`` for each, and a ``ServerChoice`` that says which one
/// takes a stream. The path is up while one of them is. Confined to its event loop.
final class ServersSource: PathSource {
    var events = PathEvents()

    /// A stream that those which are up could not open, while others are being tried.
    private struct Waiting {
        let authority: Authority
        let headers: HeaderFields
        let tried: [Authority]
        /// What came of the last try.
        let failure: PathFailure
        let completion: (Result<ByteStream, PathFailure>) -> Void
    }

    /// Makes the way to one of them.
    private let make: (Authority, TLSContext, ConnectionSettings) -> TunnelSource
    private var context: TLSContext
    private var settings: ConnectionSettings
    private var sources: [Authority: TunnelSource] = [:]
    /// To servers that are none any more: for the streams that are open there.
    private var retired: [TunnelSource] = []
    private var choice: ServerChoice<Authority>
    private let loop: EventLoop
    private let logger: Logger
    private let name: String
    /// Those that are down, and of which the log may say so.
    private var missed: Set<Authority> = []
    private let outages: ServerOutages
    /// Those that no stream has used for the idle timeout.
    private var idle: Set<Authority> = []
    private var timer: LoopTimer?
    private var waiting: [Waiting] = []
    /// How many may wait, of one event loop. When more have come while servers connect, which takes as long as a
    /// handshake may, the destination is short of servers, and whoever asks is told so.
    var waitingLimit = 4096
    /// Somebody has asked for the path, and has not let go of it.
    private var isWanted = false
    /// The owner was told that it is up.
    private var isUp = false

    /// - Parameters:
    ///   - name: Of the destination, for the log.
    ///   - servers: At least one, each once.
    ///   - context: Of the connections that are made, until another one is taken.
    ///   - settings: Likewise.
    ///   - outages: What all loops of a node have in common.
    ///   - make: Makes the way to one of them.
    init(
        name: String,
        to servers: [Authority],
        on loop: EventLoop,
        logger: Logger,
        context: TLSContext,
        settings: ConnectionSettings,
        outages: ServerOutages = ServerOutages(),
        _ make: @escaping (Authority, TLSContext, ConnectionSettings) -> TunnelSource
    ) {
        self.loop = loop
        self.logger = logger
        self.name = name
        self.context = context
        self.settings = settings
        self.outages = outages
        self.make = make
        choice = ServerChoice(servers)
        timer = LoopTimer(on: loop) { [weak self] in self?.tick() }
        for server in servers { add(server) }
    }

    deinit {
        for server in missed { outages.ended(name, server) }
    }

    private func add(_ server: Authority) {
        let source = make(server, context, settings)
        source.events = PathEvents(
            up: { [weak self] in self?.cameUp(server) },
            down: { [weak self] error, wasUsed in self?.wentDown(server, error, wasUsed: wasUsed) },
            rest: { [weak self] in self?.rested(server) },
            idle: { [weak self] in self?.becameIdle(server) }
        )
        sources[server] = source
    }

    /// Takes `servers` in the place of those there were. Streams that are open stay where they are.
    func use(_ servers: [Authority]) {
        choice.replace(with: servers)
        for server in servers where sources[server] == nil { add(server) }
        for (server, source) in sources where !servers.contains(server) {
            sources[server] = nil
            idle.remove(server)
            if missed.remove(server) != nil { outages.ended(name, server) }
            retire(source)
        }
        guard isWanted else { return }
        connect(choice.wanted(now: loop.now))
        if isUp, !choice.isUp { lost(StreamError(.closed, "the servers of the endpoint have changed"), false) }
        // The one that was waited for may be among those that have gone.
        resumeWaiting()
    }

    private func retire(_ source: TunnelSource) {
        guard source.streamCount > 0 else { return source.release() }
        retired.append(source)
        let leave = { [weak self, weak source] in
            guard let self, let source, source.streamCount == 0 else { return }
            source.release()
            retired.removeAll { $0 === source }
        }
        source.events = PathEvents(up: {}, down: { _, _ in leave() }, rest: leave, idle: leave)
    }

    var peer: SPIFFEID? {
        let peers = Set(sources.values.compactMap(\.peer))
        return peers.count == 1 ? peers.first : nil
    }

    var roundTripTime: Duration? { sources.values.compactMap(\.roundTripTime).min() }

    var servers: [ServerReport] { choice.reports(now: loop.now) }

    var streamCount: Int { (Array(sources.values) + retired).reduce(waiting.count) { $0 + $1.streamCount } }

    func networkChanged(_ change: NetworkChange) {
        for source in Array(sources.values) + retired { source.networkChanged(change) }
        guard isWanted else { return }
        connect(choice.hurry(now: loop.now))
    }

    // MARK: The path

    func establish() {
        isWanted = true
        connect(choice.wanted(now: loop.now))
        guard choice.isUp else { return }
        // Who asks for what is there has missed that it is.
        loop.later { [weak self] in
            guard let self, isWanted, choice.isUp else { return }
            isUp = true
            events.up()
        }
    }

    private func connect(_ servers: [Authority]) {
        for server in servers { sources[server]?.establish() }
        schedule()
    }

    private func schedule() {
        guard isWanted, let deadline = choice.nextDeadline else { return timer?.cancel() ?? () }
        timer?.schedule(after: .nanoseconds(Int64(clamping: deadline &- min(deadline, loop.now))))
    }

    private func tick() {
        guard isWanted else { return }
        connect(choice.tick(now: loop.now))
    }

    private func cameUp(_ server: Authority) {
        choice.cameUp(server, now: loop.now)
        missed.remove(server)
        if outages.ended(name, server) {
            logger.notice("server is back", metadata: ["peer": "\(name)", "server": "\(server)"])
        }
        schedule()
        if !isUp {
            isUp = true
            events.up()
        }
        resumeWaiting()
    }

    /// Each looks for a server again, and may have to wait once more.
    private func resumeWaiting() {
        let resuming = waiting
        waiting = []
        for stream in resuming {
            open(to: stream.authority, stream.headers, besides: stream.tried, last: stream.failure, stream.completion)
        }
    }

    /// Nothing is up, and nothing is being tried: who waits gets the answer there was, or asks for another path.
    private func failWaiting() {
        let failed = waiting
        waiting = []
        for stream in failed { stream.completion(.failure(stream.failure)) }
    }

    private func wentDown(_ server: Authority, _ error: StreamError, wasUsed: Bool) {
        guard isWanted else { return }
        missed.insert(server)
        logger.log(
            level: outages.began(name, server) ? .notice : .debug,
            "server down",
            metadata: ["peer": "\(name)", "server": "\(server)", "reason": "\(error)"]
        )
        if choice.wentDown(server, error, now: loop.now) { sources[server]?.establish() }
        schedule()
        // While another one is being tried, who waits may still be served.
        guard choice.isDown else {
            if isUp, !choice.isUp { lost(error, wasUsed) }
            return resumeWaiting()
        }
        // Nobody is dialled for nobody: who wants a stream establishes the path again.
        isWanted = false
        timer?.cancel()
        lost(choice.error, wasUsed)
        // The owner, who has been told, may have begun anew; that is for the streams that it asks for from now on.
        failWaiting()
    }

    private func lost(_ error: StreamError, _ wasUsed: Bool) {
        isUp = false
        events.down(error, wasUsed || streamCount > 0)
    }

    private func rested(_ server: Authority) {
        choice.rested(server)
        guard choice.isDown, isUp else { return }
        isUp = false
        events.rest()
    }

    /// Each says so for itself, and again and again; the path is idle when all of them are.
    private func becameIdle(_ server: Authority) {
        idle.insert(server)
        guard sources.keys.allSatisfy({ idle.contains($0) || !choice.isConnected($0) }) else { return }
        events.idle()
    }

    func use(_ context: TLSContext, _ settings: ConnectionSettings) {
        (self.context, self.settings) = (context, settings)
        for source in Array(sources.values) + retired { source.use(context, settings) }
    }

    func release() {
        leave()
        for source in sources.values { source.release() }
    }

    func reset() {
        leave()
        for source in Array(sources.values) + retired { source.reset() }
        retired = []
    }

    func distrust() -> Bool {
        leave()
        var keeps = false
        for source in Array(sources.values) + retired where source.distrust() { keeps = true }
        return keeps
    }

    private func leave() {
        isWanted = false
        isUp = false
        timer?.cancel()
        idle = []
        choice.released()
        resumeWaiting()
    }

    // MARK: Streams

    func open(
        to authority: Authority,
        headers: HeaderFields,
        completion: @escaping (Result<ByteStream, PathFailure>) -> Void
    ) {
        open(to: authority, headers, besides: [], last: nil, completion)
    }

    func resume(
        to authority: Authority,
        headers: HeaderFields,
        at place: ResumptionPlace,
        completion: @escaping (Result<ByteStream, PathFailure>) -> Void
    ) {
        let server = place.server
        guard let server, let source = sources[server], choice.isConnected(server) else {
            let reason = StreamError(.unreachable, "\(server?.description ?? "the server") is not up")
            return loop.later { completion(.failure(.pathLost(reason))) }
        }
        var place = place
        place.server = nil
        source.resume(to: authority, headers: headers, at: place, completion: completion)
    }

    func server(of connection: H2Connection?) -> Authority? {
        guard let connection else { return nil }
        return sources.first { $0.value.has(connection) }?.key
    }

    /// No byte of the stream has been sent: the next server may have what one of them lost, or could not do.
    private func open(
        to authority: Authority,
        _ headers: HeaderFields,
        besides tried: [Authority],
        last failure: PathFailure?,
        _ completion: @escaping (Result<ByteStream, PathFailure>) -> Void
    ) {
        let server = choice.next(besides: tried, now: loop.now) { sources[$0]?.streamCount ?? 0 }
        guard let server, let source = sources[server] else {
            if let failure, mayWait(after: failure, besides: tried) {
                guard waiting.count < waitingLimit else {
                    let full = StreamError(
                        .limit,
                        "\(waitingLimit) streams wait already for a server of \(name) that is being connected"
                    )
                    return loop.later { completion(.failure(.refused(full))) }
                }
                waiting.append(
                    Waiting(
                        authority: authority,
                        headers: headers,
                        tried: tried,
                        failure: failure,
                        completion: completion
                    )
                )
                return
            }
            let failure = failure ?? .pathLost(StreamError(.closed, "no server is up"))
            return loop.later { completion(.failure(failure)) }
        }
        // Those that are not connected are for the streams that follow.
        connect(choice.wanted(now: loop.now))
        if !idle.isEmpty { idle.remove(server) }
        source.open(to: authority, headers: headers) { [weak self] result in
            guard let self, case .failure(let failure) = result else {
                self?.choice.served(server)
                return completion(result)
            }
            let verdict = ServerVerdict(failure)
            note(verdict, of: server, failure)
            guard verdict == .failsAskAnother else { return completion(result) }
            open(to: authority, headers, besides: tried + [server], last: failure, completion)
        }
    }

    /// Where the path is down, its owner may know another one; but an answer would be the last word, and is not given
    /// while another server may have a better one.
    private func mayWait(after failure: PathFailure, besides tried: [Authority]) -> Bool {
        if case .pathLost = failure, !choice.isUp { return false }
        return choice.mayComeUp(besides: tried)
    }

    private func note(_ verdict: ServerVerdict, of server: Authority, _ failure: PathFailure) {
        switch verdict {
        case .works: choice.served(server)
        case .saysNothing: break
        case .fails, .failsAskAnother:
            guard let ejection = choice.failed(server, now: loop.now) else { return }
            logger.notice(
                "server ejected",
                metadata: [
                    "peer": "\(name)", "server": "\(server)", "for": "\(ejection)",
                    "reason": "\(failure.error?.message ?? "lost")",
                ]
            )
        }
    }
}
