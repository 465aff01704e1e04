package import H2Transport
package import Logging
package import MeshIdentity
import Platform
package import Streams

/// The connections of one event loop that peers hold to this node because they cannot be dialled (ALPN `h2r`): each of
/// them has dialled, and this side opens the streams. Confined to its loop.
///
/// ```
///   TLS handshake, h2r ─→ an endpoint names the identity? ─→ HTTP/2, this side the client ─→ PING answered: ready
///   ready ── GOAWAY, silence, revoked, no endpoint any more ─→ no new streams, and the peer dials again
/// ```
///
/// The identity is that of the certificate; nothing that the peer says counts.
package final class HeldConnections {
    /// One of them, for people.
    package struct Report: Sendable {
        package let identity: SPIFFEID
        package let address: String
        /// It takes new streams.
        package let isReady: Bool
        package let streams: Int
        package let roundTripTime: Duration?
        package let age: Duration
    }

    private struct Held {
        let id: UInt64
        let identity: SPIFFEID
        let connection: H2Connection
        let since: UInt64
        var isReady = false
        var isLeaving = false
    }

    /// Who waits, on its own loop, for a stream over a connection of another one.
    private struct Waiting {
        let connections: HeldConnections
        let near: LoopBridge
        let completion: (Result<ByteStream, ConnectFailure>) -> Void
    }

    private struct Watcher {
        weak var source: (any HeldWatcher)?
    }

    package let loop: EventLoop
    package let directory: HeldDirectory
    private let logger: Logger
    private let log: PeerLog
    private var settings: ConnectionSettings
    /// Whom an endpoint names.
    private var identities: Set<SPIFFEID> = []
    private var trust: TrustBundleSet
    private var held: [ObjectIdentifier: Held] = [:]
    private var byID: [UInt64: H2Connection] = [:]
    /// Streams of this loop over connections of the others.
    private var bridged: [SPIFFEID: Int] = [:]
    private var watchers: [Watcher] = []
    private var monitor: LoopTimer?
    private var isDraining = false
    private var emptied: [() -> Void] = []

    /// How often connections are looked at that owe an answer.
    private static let silence: Duration = .milliseconds(200)

    /// - Parameters:
    ///   - loop: Where it lives.
    ///   - directory: What this loop has in common with the others.
    ///   - trust: Who vouches for peers.
    ///   - settings: Timeouts of the connections.
    ///   - logger: Told who comes and goes.
    package init(
        on loop: EventLoop,
        directory: HeldDirectory,
        trust: TrustBundleSet,
        settings: ConnectionSettings,
        logger: Logger
    ) {
        self.loop = loop
        self.directory = directory
        self.trust = trust
        self.settings = settings
        self.logger = logger
        log = PeerLog(logger, on: loop)
        monitor = LoopTimer(on: loop) { [weak self] in self?.checkSilence() }
        directory.enter(LoopBound(self, on: loop))
    }

    /// What holds from now on: those whose identity no endpoint names any more, or whose certificate is revoked, are
    /// cut.
    package func use(identities: Set<SPIFFEID>, trust: TrustBundleSet, settings: ConnectionSettings) {
        self.identities = identities
        self.trust = trust
        self.settings = settings
        for entry in Array(held.values) where !entry.connection.end(ifRevokedIn: trust) {
            guard !identities.contains(entry.identity) else { continue }
            entry.connection.abort(StreamError(.denied, "no endpoint with 'reverse: true' is for it any more"))
        }
    }

    // MARK: Peers that come

    /// Takes over a connection whose client asks for swapped roles, or refuses it.
    package func accept(_ stream: TLSStream) {
        guard let identity = stream.peer?.identity else { return stream.reset(StreamError(.denied, "nobody")) }
        guard identities.contains(identity) else {
            let reason = "no endpoint here has 'reverse: true' and its identity"
            refuse(stream, identity, .denied, "\(reason): add {match: NAME, reverse: true, identity: \"\(identity)\"}")
            return
        }
        guard !isDraining else { return refuse(stream, identity, .draining, "the node stops") }
        guard let (id, oldest) = directory.add(identity, stream.peer?.certificate, at: LoopBound(self, on: loop)) else {
            return refuse(stream, identity, .limit, "\(directory.count) connections are held already")
        }
        if let oldest {
            log.log(.warning, "holds too many connections: its oldest makes room", of: identity.description)
            oldest.home.loop.submit { oldest.home.withValue { $0.makeRoom(oldest.id) } }
        }
        var configuration = settings.http2(for: .client)
        // How long it lasts is for the side to say that can make another one.
        configuration.age.maximum = nil
        do throws(StreamError) {
            let connection = try H2Connection(
                over: stream,
                role: .client,
                configuration: configuration,
                delegate: self
            )
            held[ObjectIdentifier(connection)] = Held(
                id: id,
                identity: identity,
                connection: connection,
                since: loop.now
            )
            byID[id] = connection
            // Revoked while the handshake ran, which had the trust of its beginning.
            if connection.end(ifRevokedIn: trust) { return }
            connection.ping { [weak self, weak connection] result in
                guard let self, let connection, case .success = result else { return }
                becameReady(connection)
            }
        } catch {
            directory.remove(id, of: identity)
            stream.reset(error)
        }
    }

    private func refuse(_ stream: TLSStream, _ identity: SPIFFEID, _ code: StreamError.Code, _ reason: String) {
        log.log(
            .warning,
            "a reverse connection was refused",
            of: identity.description,
            ["reason": "\(reason)", "from": "\(stream.lower.peerDescription)"]
        )
        stream.reset(StreamError(code, reason))
    }

    private func becameReady(_ connection: H2Connection) {
        let key = ObjectIdentifier(connection)
        guard var entry = held[key], !entry.isLeaving, !connection.isDraining else { return }
        entry.isReady = true
        held[key] = entry
        log.log(
            .notice,
            "holds a connection to this node",
            of: entry.identity.description,
            ["from": "\(connection.remoteAddress?.description ?? "elsewhere")"]
        )
        directory.isReady(entry.id, of: entry.identity, process: connection.peerProcess)
    }

    private func makeRoom(_ id: UInt64) {
        byID[id]?.abort(StreamError(.limit, "the same identity holds newer connections"))
    }

    /// It takes no new streams; those that are open go on.
    private func leave(_ connection: H2Connection) {
        let key = ObjectIdentifier(connection)
        guard var entry = held[key], !entry.isLeaving else { return }
        entry.isLeaving = true
        held[key] = entry
        directory.remove(entry.id, of: entry.identity)
    }

    // MARK: Streams

    /// Whether one of these identities holds a connection that takes streams.
    func has(_ identities: [SPIFFEID]) -> Bool { directory.choose(identities) != nil }

    /// Streams that are open, or being opened, on this loop's connections of these identities, and those of this loop
    /// on the others'.
    func streamCount(_ identities: [SPIFFEID]) -> Int {
        let own = held.values.reduce(0) { identities.contains($1.identity) ? $0 + $1.connection.streamCount : $0 }
        return identities.reduce(own) { $0 + (bridged[$1] ?? 0) }
    }

    private func count(_ stream: LoopBridge, of identity: SPIFFEID) {
        bridged[identity, default: 0] += 1
        stream.onRelease = { [weak self] in
            guard let self, let count = bridged[identity] else { return }
            bridged[identity] = count > 1 ? count - 1 : nil
        }
    }

    func roundTripTime(_ identities: [SPIFFEID]) -> Duration? {
        held.values.filter { identities.contains($0.identity) }.compactMap(\.connection.shortestRoundTripTime).min()
    }

    /// Opens a stream over a connection of one of these identities, whichever event loop has it; where that does not
    /// take it, over the next.
    ///
    /// - Parameters:
    ///   - turn: Says which one is next.
    ///   - nobody: What is said where nobody holds one.
    ///   - completion: Called once, on this loop.
    func open(
        _ request: ConnectRequest,
        to identities: [SPIFFEID],
        _ turn: HeldTurn,
        nobody: @escaping @autoclosure () -> StreamError,
        completion: @escaping (Result<ByteStream, PathFailure>) -> Void
    ) {
        guard let place = directory.choose(identities, besides: turn.asked, first: turn.certificate) else {
            let failure = turn.exhausted(nobody())
            return loop.later { completion(.failure(failure)) }
        }
        let next = { [self] (failure: ConnectFailure) in
            var turn = turn
            switch turn.failed(failure, on: place.id, place.certificate) {
            case .over(let reason): completion(.failure(reason))
            // Not while a connection tells all of its streams that it is gone.
            case .another:
                loop.later { [self] in
                    open(request, to: identities, turn, nobody: nobody(), completion: completion)
                }
            }
        }
        // As it would say itself.
        if turn.isElsewhere(than: place.process) { return next(.streamIsElsewhere) }
        open(request, at: place) { result in
            switch result {
            case .success(let stream): completion(.success(stream))
            case .failure(let failure): next(failure)
            }
        }
    }

    private func open(
        _ request: ConnectRequest,
        at place: HeldDirectory.Place,
        completion: @escaping (Result<ByteStream, ConnectFailure>) -> Void
    ) {
        guard place.home.loop !== loop else {
            return open(request, on: place.id) { completion($0.map { $0 }) }
        }
        let near = LoopBridge(on: loop, to: request.authority)
        let far = near.makeFarEnd(on: place.home.loop)
        let waiting = LoopBound(Waiting(connections: self, near: near, completion: completion), on: loop)
        let (home, id) = (place.home, place.id)
        let isRunning = home.loop.submitIfRunning {
            home.withValue { $0.open(request, on: id, for: far, waiting) }
        }
        guard !isRunning else { return }
        let error = StreamError(.closed, "the event loop of the connection has shut down")
        near.reset(error)
        loop.later { completion(.failure(ConnectFailure(error, isRetryable: true))) }
    }

    /// For another loop: the stream is joined with the far end of a bridge.
    private func open(
        _ request: ConnectRequest,
        on id: UInt64,
        for far: LoopBound<LoopBridge>,
        _ waiting: LoopBound<Waiting>
    ) {
        open(request, on: id) { result in
            switch result {
            case .failure(let failure):
                waiting.loop.submit {
                    waiting.withValue { waiting in
                        waiting.near.reset(failure.error)
                        waiting.completion(.failure(failure))
                    }
                }
            case .success(let stream):
                let facts = BridgedFacts(of: stream, on: id)
                let isAwaited = waiting.loop.submitIfRunning {
                    waiting.withValue { waiting in
                        waiting.near.facts = facts
                        if let peer = facts.peer { waiting.connections.count(waiting.near, of: peer) }
                        waiting.completion(.success(waiting.near))
                    }
                }
                guard isAwaited else { return stream.reset(StreamError(.closed, "nobody waits for it")) }
                far.withValue { $0.join(stream) }
            }
        }
    }

    private func open(
        _ request: ConnectRequest,
        on id: UInt64,
        _ completion: @escaping (Result<H2Stream, ConnectFailure>) -> Void
    ) {
        guard let connection = byID[id] else {
            let error = StreamError(.draining, "the connection was lost meanwhile")
            return loop.later { completion(.failure(ConnectFailure(error, isRetryable: true))) }
        }
        connection.openStream(request, completion: completion)
        if monitor?.isScheduled == false { monitor?.schedule(after: Self.silence) }
    }

    /// Runs while streams are open. Who owes an answer and is silent is asked; who does not answer takes no new streams
    /// any more, and is told to dial again, in case that it hears it.
    private func checkSilence() {
        var isUsed = false
        for entry in Array(held.values) where entry.connection.streamCount > 0 {
            isUsed = true
            let connection = entry.connection
            guard !entry.isLeaving, !connection.isBeingProbed, connection.lastSent > connection.lastReceived,
                loop.now &- connection.lastReceived >= Self.silence.nanoseconds
            else { continue }
            let timeout = AnswerTime.allowed(connection)
            connection.probe(timeout: timeout) { [weak self, weak connection] isAlive in
                guard !isAlive, let self, let connection, !connection.isClosed else { return }
                log.log(
                    .notice,
                    "does not answer: its connection takes no new streams",
                    of: connection.peerDescription,
                    ["asked": "\(timeout)"]
                )
                leave(connection)
                directory.doubt(entry.id, of: entry.identity, "no answer to PING within \(timeout)")
                // They are asked for again over a newer connection, or another path.
                connection.giveUpRequests(StreamError(.timedOut, "no answer to PING within \(timeout)"))
                connection.drain(deadline: nil)
            }
        }
        if isUsed { monitor?.schedule(after: Self.silence) }
    }

    // MARK: Whoever waits for a connection

    /// Has `watcher` told when connections come and go, for as long as it lives.
    func watch(_ watcher: any HeldWatcher) {
        watchers.removeAll { $0.source == nil }
        watchers.append(Watcher(source: watcher))
    }

    /// Connections of `identity` have come or gone, on some loop.
    func changed(_ identity: SPIFFEID) {
        for watcher in watchers { watcher.source?.heldChanged(identity) }
    }

    /// A connection of `identity` does not answer, on some loop.
    func doubted(_ id: UInt64, of identity: SPIFFEID, _ reason: String) {
        for watcher in watchers { watcher.source?.heldDoubted(id, of: identity, reason) }
    }

    /// The connection that a stream of this loop goes over; nil: none that a peer holds.
    func id(of stream: ByteStream) -> UInt64? {
        guard let connection = (stream as? H2Stream)?.transport else { return BridgedFacts(of: stream)?.connection }
        return held[ObjectIdentifier(connection)]?.id
    }

    /// The connection of such a stream, where it takes no more of them; nil: it does, or it is none of these.
    func leftConnection(of stream: ByteStream) -> UInt64? {
        if let connection = (stream as? H2Stream)?.transport {
            guard let entry = held[ObjectIdentifier(connection)], entry.isLeaving else { return nil }
            return entry.id
        }
        guard let facts = BridgedFacts(of: stream), let peer = facts.peer else { return nil }
        let id = facts.connection
        return directory.has(id, of: peer) ? nil : id
    }

    // MARK: The end

    /// Takes no more connections and opens no more streams: peers are told to go elsewhere.
    package func drain() {
        isDraining = true
        for entry in Array(held.values) {
            leave(entry.connection)
            entry.connection.drain(deadline: nil)
        }
    }

    /// Calls `body` on the loop when nobody holds a connection any more, at once if nobody does.
    package func whenEmpty(_ body: @escaping () -> Void) {
        if held.isEmpty { body() } else { emptied.append(body) }
    }

    /// Cuts what is left.
    package func shutDown() {
        isDraining = true
        monitor?.cancel()
        directory.leave(loop)
        for entry in Array(held.values) { entry.connection.abort(StreamError(.closed, "the node has stopped")) }
    }

    /// What peers hold to this loop.
    package var reports: [Report] {
        held.values.sorted { $0.id < $1.id }.map { entry in
            Report(
                identity: entry.identity,
                address: entry.connection.remoteAddress?.description ?? "",
                isReady: entry.isReady && !entry.isLeaving,
                streams: entry.connection.streamCount,
                roundTripTime: entry.connection.shortestRoundTripTime,
                age: .nanoseconds(Int64(clamping: loop.now &- min(entry.since, loop.now)))
            )
        }
    }
}

extension ConnectFailure {
    /// What a process answers that does not have a stream which is to go on.
    fileprivate static var streamIsElsewhere: ConnectFailure {
        ConnectFailure(.streamIsElsewhere, response: ConnectResponse(status: 404))
    }
}

/// Waits for connections that peers hold.
protocol HeldWatcher: AnyObject {
    func heldChanged(_ identity: SPIFFEID)
    func heldDoubted(_ id: UInt64, of identity: SPIFFEID, _ reason: String)
}

extension HeldConnections: H2ConnectionDelegate {
    package func connectionIsDraining(_ connection: H2Connection) { leave(connection) }

    package func connection(_ connection: H2Connection, closed reason: StreamError?) {
        let key = ObjectIdentifier(connection)
        leave(connection)
        guard let entry = held.removeValue(forKey: key) else { return }
        byID[entry.id] = nil
        log.log(
            .notice,
            "holds a connection no more",
            of: entry.identity.description,
            ["reason": "\(reason?.message ?? "it was let go in order")"]
        )
        guard held.isEmpty, !emptied.isEmpty else { return }
        let waiting = emptied
        emptied = []
        for resume in waiting { resume() }
    }
}
