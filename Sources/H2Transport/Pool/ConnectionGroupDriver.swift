package import MeshIdentity
package import Streams

extension H2Connection: GroupedConnection {}

/// Carries out what a ``ConnectionGroup`` decides: dials, opens streams, closes. The connections of an ``H2ClientPool``
/// to one endpoint, and those of a path to a peer. Confined to its event loop; its connections do not retain it.
package final class ConnectionGroupDriver: H2ConnectionDelegate {
    package typealias Completion = (Result<H2Stream, ConnectFailure>) -> Void

    /// Of connections, and when they are made.
    package struct Settings: Hashable, Sendable {
        package var http2: H2Configuration
        /// How long the first PING may take; nil: a connection is up when its handshake is done. See
        /// ``ConnectionDial``.
        var firstAnswer: Duration?
        var rules: Rules
        /// Whether a request that no harm is done by is tried again here, and not by the caller.
        var repeatsRequests: Bool

        typealias Rules = ConnectionGroup<H2Connection, Opening>.Rules

        /// How long the first PING of a path may take; the connection's own keep-alive is too patient for a path on
        /// trial.
        package static let firstAnswerOfPath: Duration = .seconds(5)

        /// For a path to a peer: one connection is kept ready, and requests are repeated by the paths, of which another
        /// one may be better.
        ///
        /// - Parameters:
        ///   - http2: Of the connections.
        ///   - connections: At once, at least 1.
        ///   - idleTimeout: The path's owner is asked after this time whether it may be let go; nil: never.
        package static func path(http2: H2Configuration, connections: Int, idleTimeout: Duration?) -> Settings {
            var rules = Rules()
            rules.connections = max(1, connections)
            // A peer that sends GOAWAY on so many new connections in a row is not merely restarting.
            rules.attempts = 3
            rules.idleTimeout = idleTimeout ?? rules.idleTimeout
            rules.keeping = .ready(askAfter: idleTimeout)
            rules.settlingTime = http2.requestTimeout
            return Settings(http2: http2, firstAnswer: firstAnswerOfPath, rules: rules, repeatsRequests: false)
        }
    }

    /// What happens to the connections.
    package enum Event {
        case connected(H2Connection)
        /// - `hadBegun`: The peer had proved who it is by then.
        case failed(StreamError, hadBegun: Bool)
        case draining(H2Connection)
        case disconnected(H2Connection, StreamError?)
        /// The group can carry streams.
        case up
        /// It cannot any more, or could not be made to. Without a reason the peer has let go of what nobody used.
        case down(StreamError?, wasUsed: Bool)
        /// No stream has used it for the idle time.
        case idle
        /// Nothing is left, and nothing is under way.
        case unused
    }

    /// An object: the group and the connection hand it around.
    final class Opening {
        let head: RequestHead
        let completion: Completion

        init(_ head: RequestHead, completion: @escaping Completion) {
            self.head = head
            self.completion = completion
        }
    }

    /// Whether the peer has accepted this side elsewhere a moment ago, and is known to speak HTTP/2 as this side does:
    /// requests go with the end of the handshake then, and nobody waits for a first PING or for SETTINGS.
    package var knowsPeer: () -> Bool = { false }
    /// Told on the loop.
    package var onEvent: (Event) -> Void = { _ in }
    /// What is trusted now, where that has changed since connections were made: those to a peer whose certificate is
    /// revoked in it, or whose trust domain is not in it, are cut, and none is used that a handshake with the trust of
    /// its beginning brings.
    package var trust: TrustBundleSet? {
        didSet {
            guard let trust, oldValue.map({ !trust.hasSameObjections(as: $0) }) ?? true else { return }
            for connection in connections { connection.end(ifRevokedIn: trust) }
        }
    }
    var counters = H2ClientPool.Counters()
    private(set) var endpoint: H2Endpoint
    private let loop: EventLoop
    private var settings: Settings
    private var group: ConnectionGroup<H2Connection, Opening>
    private var attempt: ConnectionDial?
    private var timer: LoopTimer?
    /// When the timer fires, on the loop's clock.
    private var timerDeadline: UInt64 = 0
    private var isClosed = false

    /// - Parameter backoff: Of the group that led to the same place before this one.
    package init(
        to endpoint: H2Endpoint,
        settings: Settings,
        backoff: DialBackoff = DialBackoff(),
        on loop: EventLoop
    ) {
        self.endpoint = endpoint
        self.settings = settings
        self.loop = loop
        group = ConnectionGroup(settings.rules, backoff: backoff)
        timer = LoopTimer(on: loop) { [weak self] in self?.run() }
    }

    // MARK: What there is

    /// A connection takes streams, or is being made for those who wait.
    package var isUp: Bool { group.isUp }
    /// What became of the connections so far, for a group that follows this one.
    package var backoff: DialBackoff { group.backoff }
    /// Streams that are open or being opened.
    package var streamCount: Int { group.streamCount }
    /// All that there are, also those that take no more streams.
    package var connections: [H2Connection] { group.connections }

    // MARK: For the owner

    /// Opens a stream. `completion` is called once, on the loop and never from inside this call.
    package func open(_ request: ConnectRequest, completion: @escaping Completion) {
        open(RequestHead(request), completion: completion)
    }

    /// The same, for the head of a request for a tunnel.
    package func open(_ head: RequestHead, completion: @escaping Completion) {
        let opening = Opening(head, completion: completion)
        guard !isClosed else {
            return fail(opening, StreamError(.closed, "the connections to \(endpoint.key) were closed"))
        }
        switch group.admit(opening, now: loop.now) {
        case .start(let connection):
            start(ConnectionGroup.Waiting(request: opening, since: loop.now), on: connection)
        case .waits: run()
        case .tooMany(let count):
            fail(opening, StreamError(.limit, "\(count) requests wait for a connection to \(endpoint.key)"))
        }
    }

    private func fail(_ opening: Opening, _ error: StreamError) {
        loop.later { opening.completion(.failure(ConnectFailure(error, isRetryable: true))) }
    }

    /// Makes a connection before anybody asks for a stream; ``Event/up`` or ``Event/down(_:wasUsed:)`` follows.
    package func establish() {
        guard !isClosed else { return }
        group.seek()
        run()
    }

    /// The way to the endpoint may be another now: whoever waits for a pause to end waits no more.
    package func hurry() {
        guard !isClosed else { return }
        group.hurry()
        run()
    }

    /// `connection` owes an answer since `time`. It takes no new streams until one comes, and those that are open go
    /// on. Who waits for one of its answers is told at once, and may ask elsewhere.
    ///
    /// - Parameter isWanted: Somebody wants another way at once, also where nobody waits for an answer here.
    package func doubt(
        _ connection: H2Connection,
        _ reason: StreamError,
        since time: UInt64,
        isWanted: Bool = false
    ) {
        connection.doubt(reason, since: time)
        group.doubted(connection, isWanted: isWanted || connection.hasUnansweredRequests)
        run()
        connection.giveUpRequests(reason)
    }

    /// New connections are made so.
    package func use(_ endpoint: H2Endpoint, _ settings: Settings) {
        self.endpoint = endpoint
        self.settings = settings
        group.rules = settings.rules
        schedule()
    }

    /// Closes idle connections, and lets the others end with their streams, until `deadline`; nil: whenever that is.
    package func drain(deadline: Duration?) {
        let waiting = stop()
        for connection in group.connections {
            if connection.streamCount == 0 { connection.close() } else { connection.drain(deadline: deadline) }
        }
        refuse(waiting, StreamError(.closed, "the connections to \(endpoint.key) were closed"))
        // Where there is no connection, none will say so by its end.
        if group.isUnused { onEvent(.unused) }
    }

    /// Cuts everything.
    ///
    /// - Parameter reason: For those who wait.
    package func close(_ reason: StreamError? = nil) {
        let waiting = stop()
        for connection in group.connections { connection.close() }
        refuse(waiting, reason ?? StreamError(.closed, "the connections to \(endpoint.key) were closed"))
    }

    private func stop() -> [Opening] {
        isClosed = true
        timer?.cancel()
        attempt?.cancel()
        attempt = nil
        return group.close()
    }

    private func refuse(_ openings: [Opening], _ reason: StreamError) {
        for opening in openings { fail(opening, reason) }
    }

    // MARK: Steps

    private func run() {
        while let step = group.next(now: loop.now) { perform(step) }
        schedule()
        if group.isUnused { onEvent(.unused) }
    }

    private func perform(_ step: ConnectionGroup<H2Connection, Opening>.Step) {
        switch step {
        case .start(let item, let connection): start(item, on: connection)
        case .fail(let opening, let error): opening.completion(.failure(ConnectFailure(error, isRetryable: true)))
        case .dial: dial()
        case .retire(let connection): connection.retire()
        case .close(let connection, let isIdle):
            if isIdle { counters.idleCloses += 1 }
            connection.close()
        case .giveUp(let connection):
            let time = settings.rules.settlingTime
            connection.abort(
                StreamError(.timedOut, "\(connection.peerDescription) sent no HTTP/2 SETTINGS within \(time)")
            )
        case .askOwner: onEvent(.idle)
        case .down(let loss): onEvent(.down(loss.reason, wasUsed: loss.wasUsed))
        }
    }

    /// A deadline that has moved away is found when the timer fires.
    private func schedule() {
        guard !isClosed, let timer, let deadline = group.nextDeadline(now: loop.now),
            !timer.isScheduled || deadline < timerDeadline
        else { return }
        timerDeadline = deadline
        timer.schedule(after: .nanoseconds(Int64(clamping: deadline &- loop.now)))
    }

    private func start(_ item: ConnectionGroup<H2Connection, Opening>.Waiting, on connection: H2Connection) {
        connection.openStream(item.request.head) { [self] result in
            guard case .failure(let failure) = result, failure.isRetryable,
                // Whoever refuses is there: no other path would do better.
                settings.repeatsRequests || failure.isRefusal,
                group.requeue(item, refusedBy: connection, isRefusal: failure.isRefusal, now: loop.now)
            else { return item.request.completion(result) }
            counters.repeatedRequests += 1
            settings.http2.metrics.countRepeatedRequest()
            // Not from inside of what the connection is telling: it may be about to say that it is gone.
            loop.later { self.run() }
        }
    }

    /// RFC 9113 §6.5.2: a peer should allow no fewer.
    private static let streamsOfKnownPeer = 100

    private func dial() {
        var configuration = settings.http2
        let isKnown = knowsPeer()
        if isKnown {
            configuration.assumedPeerStreams = max(configuration.assumedPeerStreams, Self.streamsOfKnownPeer)
        }
        let attempt = ConnectionDial(
            to: endpoint,
            configuration: configuration,
            firstAnswer: isKnown ? nil : settings.firstAnswer,
            on: loop
        )
        self.attempt = attempt
        attempt.start { [weak self, weak attempt] result in
            guard let self else {
                if case .success(let connection) = result { connection.close() }
                return
            }
            // The group holds the attempt, and lets go of it here.
            let hadBegun = attempt?.hasBegun == true
            self.attempt = nil
            switch result {
            case .success(let connection):
                if let trust, connection.end(ifRevokedIn: trust) {
                    failed(StreamError(.authentication, "the certificate of \(endpoint.key) does not hold any more"))
                } else {
                    dialed(connection)
                }
            case .failure(let error): failed(error, hadBegun: hadBegun)
            }
            run()
        }
    }

    private func failed(_ error: StreamError, hadBegun: Bool = false) {
        counters.failedDials += 1
        group.dialFailed(error, hadBegun: hadBegun, now: loop.now)
        onEvent(.failed(error, hadBegun: hadBegun))
    }

    private func dialed(_ connection: H2Connection) {
        connection.delegate = self
        counters.connected += 1
        if group.isReplacing {
            counters.replacements += 1
        } else if group.hasUsable {
            counters.overflows += 1
        }
        let comesUp = group.dialed(connection, now: loop.now)
        onEvent(.connected(connection))
        if comesUp { onEvent(.up) }
    }

    // MARK: H2ConnectionDelegate

    package func connection(_ connection: H2Connection, received request: PendingConnect) {
        // A client is not asked for tunnels; nghttp2 has refused it as a protocol error before.
        request.reject(.denied())
    }

    package func connectionIsDraining(_ connection: H2Connection) {
        group.drained(connection, now: loop.now)
        onEvent(.draining(connection))
        run()
    }

    package func connectionIsTooOld(_ connection: H2Connection) {
        group.tooOld(connection)
        run()
    }

    package func connectionHasCapacity(_ connection: H2Connection) {
        let comesUp = group.hasCapacity(connection, now: loop.now)
        if comesUp { onEvent(.up) }
        if group.mayHaveStep { run() }
    }

    package func connection(_ connection: H2Connection, closed reason: StreamError?) {
        group.ended(connection, reason, lostStreams: connection.lostStreams, now: loop.now)
        onEvent(.disconnected(connection, reason))
        run()
    }
}
