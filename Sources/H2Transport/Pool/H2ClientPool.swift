public import Streams

/// Keeps HTTP/2 connections to peers and shares each among the tunnels to that peer. Confined to its event loop.
///
/// One dial is in flight for each endpoint at a time, and requests wait for it. A further connection is made when the peer
/// allows no more streams on those there are. A request that a connection refused without looking at it (GOAWAY,
/// REFUSED_STREAM) is repeated on another one; no other is ever repeated.
public final class H2ClientPool {
    public struct Configuration: Hashable, Sendable {
        public var http2 = H2Configuration.defaults
        /// A connection without streams is closed after this time; ztunnel's value.
        public var idleTimeout: Duration = .seconds(300)
        /// Connections to one endpoint. At the limit, requests wait for a stream to end.
        public var connectionsPerEndpoint = 16
        /// How often a request is tried where it can be repeated without harm.
        public var attempts = 3
        /// Requests that may wait for one endpoint; more fail with `limit`.
        public var waitingRequests = 4096

        public init() {}

        public static var defaults: Configuration { Configuration() }
    }

    /// What happens to the connections of an endpoint.
    public enum Change {
        /// A connection is up: its handshake is done.
        case connected(H2Connection)
        /// A dial failed.
        case failed(StreamError)
        /// A connection takes no more streams (GOAWAY).
        case draining(H2Connection)
        /// A connection is gone; nil when it was closed with nothing lost.
        case disconnected(H2Connection, StreamError?)
    }

    public typealias Completion = (Result<H2Stream, ConnectFailure>) -> Void

    public let loop: EventLoop
    public let configuration: Configuration
    /// Told of every change, on the loop.
    public var onChange: ((H2Endpoint.Key, Change) -> Void)?
    private var members: [H2Endpoint.Key: Member] = [:]

    /// - Throws: ``StreamError`` when the configuration is not valid.
    public init(on loop: EventLoop, configuration: Configuration = .defaults) throws(StreamError) {
        try configuration.http2.validate()
        self.loop = loop
        self.configuration = configuration
    }

    /// Opens a tunnel over a connection to `endpoint`, made now where there is none. `completion` is called once, on the loop
    /// and never from inside this call.
    public func openStream(_ request: ConnectRequest, to endpoint: H2Endpoint, completion: @escaping Completion) {
        let member =
            members[endpoint.key]
            ?? {
                let member = Member(endpoint, of: self)
                members[endpoint.key] = member
                return member
            }()
        member.open(request, completion)
    }

    /// The connections to an endpoint that take streams.
    public func connections(to key: H2Endpoint.Key) -> [H2Connection] {
        members[key]?.connections.filter { !$0.isDraining } ?? []
    }

    /// Closes idle connections, and lets the others end with their streams, until `deadline`.
    public func drain(deadline: Duration) {
        for member in members.values { member.drain(deadline: deadline) }
    }

    /// Cuts everything.
    public func close() {
        for member in members.values { member.close() }
        members = [:]
    }

    fileprivate func forget(_ member: Member) {
        if members[member.endpoint.key] === member { members[member.endpoint.key] = nil }
    }
}

/// The connections to one endpoint, and who waits for them.
private final class Member: H2ConnectionDelegate {
    struct Waiting {
        let request: ConnectRequest
        let completion: H2ClientPool.Completion
        var attempts = 0
    }

    let endpoint: H2Endpoint
    private unowned let pool: H2ClientPool
    private(set) var connections: [H2Connection] = []
    private var waiting: ContiguousArray<Waiting> = []
    private var isDialing = false
    private var isClosed = false
    private var idleTimer: LoopTimer?

    init(_ endpoint: H2Endpoint, of pool: H2ClientPool) {
        self.endpoint = endpoint
        self.pool = pool
    }

    func open(_ request: ConnectRequest, _ completion: @escaping H2ClientPool.Completion) {
        guard !isClosed, waiting.count < pool.configuration.waitingRequests else {
            let error =
                isClosed
                ? StreamError(.closed, "the connections to \(endpoint.key) were closed")
                : StreamError(.limit, "\(waiting.count) requests wait for a connection to \(endpoint.key)")
            LoopCall(on: pool.loop) { completion(.failure(ConnectFailure(error, isRetryable: true))) }
            return
        }
        waiting.append(Waiting(request: request, completion: completion))
        serve()
    }

    /// Hands the requests that wait to connections with room, and dials when there are none.
    private func serve() {
        var served = 0
        while served < waiting.count {
            guard let connection = connections.first(where: { $0.availableStreams > 0 }) else { break }
            start(waiting[served], on: connection)
            served += 1
        }
        waiting.removeFirst(served)
        if !waiting.isEmpty { dial() }
    }

    private func start(_ item: Waiting, on connection: H2Connection) {
        connection.openStream(item.request) { [self] result in
            guard case .failure(let failure) = result, failure.isRetryable, !isClosed,
                item.attempts + 1 < pool.configuration.attempts
            else { return item.completion(result) }
            // The connection did not look at it: another one, or this one later, may.
            var again = item
            again.attempts += 1
            waiting.append(again)
            if connection.isDraining || connections.contains(where: { $0.availableStreams > 0 && $0 !== connection }) {
                serve()
            } else {
                dial()
            }
        }
    }

    private func dial() {
        guard !isDialing, !isClosed else { return }
        guard connections.count(where: { !$0.isDraining }) < pool.configuration.connectionsPerEndpoint else { return }
        isDialing = true
        endpoint.connect(pool.loop) { [self] result in
            isDialing = false
            switch result {
            case .success(let connected): use(connected)
            case .failure(let error): dialFailed(error)
            }
        }
    }

    private func use(_ connected: H2Endpoint.Connected) {
        guard !isClosed else { return connected.stream.reset(StreamError(.closed, "nobody waits for the connection")) }
        do throws(StreamError) {
            let connection = try H2Connection(
                over: connected.stream,
                role: .client,
                peer: connected.peer,
                configuration: pool.configuration.http2,
                delegate: self
            )
            connection.remoteAddress = connected.remoteAddress
            connections.append(connection)
            pool.configuration.http2.metrics.countHandshake(.client)
            pool.onChange?(endpoint.key, .connected(connection))
            serve()
            watchIdle()
        } catch {
            connected.stream.reset(error)
            dialFailed(error)
        }
    }

    private func dialFailed(_ error: StreamError) {
        pool.configuration.http2.metrics.countHandshake(.client, failure: error)
        pool.onChange?(endpoint.key, .failed(error))
        // Where other connections are up, those who wait get a stream when one ends.
        guard connections.allSatisfy(\.isDraining) else { return }
        let failed = waiting
        waiting = []
        for item in failed { item.completion(.failure(ConnectFailure(error, isRetryable: true))) }
        forgetIfUnused()
    }

    // MARK: Idle

    private func watchIdle() {
        guard !isClosed, connections.contains(where: { $0.streamCount == 0 }) else { return }
        if idleTimer == nil { idleTimer = LoopTimer(on: pool.loop) { [weak self] in self?.closeIdle() } }
        idleTimer?.schedule(after: pool.configuration.idleTimeout)
    }

    /// Every stream that ends sets the timer anew: what has no stream now has had none for the whole time.
    private func closeIdle() {
        guard waiting.isEmpty else { return }
        for connection in connections where connection.streamCount == 0 { connection.close() }
    }

    func drain(deadline: Duration) {
        isClosed = true
        for connection in connections {
            if connection.streamCount == 0 { connection.close() } else { connection.drain(deadline: deadline) }
        }
        failWaiting()
    }

    func close() {
        isClosed = true
        idleTimer?.cancel()
        for connection in connections { connection.close() }
        failWaiting()
    }

    private func failWaiting() {
        let failed = waiting
        waiting = []
        let error = StreamError(.closed, "the connections to \(endpoint.key) were closed")
        for item in failed {
            LoopCall(on: pool.loop) { item.completion(.failure(ConnectFailure(error, isRetryable: true))) }
        }
    }

    private func forgetIfUnused() {
        guard connections.isEmpty, waiting.isEmpty, !isDialing else { return }
        idleTimer?.cancel()
        pool.forget(self)
    }

    // MARK: H2ConnectionDelegate

    func connection(_ connection: H2Connection, received request: PendingConnect) {
        request.reject(.denied())
    }

    func connectionIsDraining(_ connection: H2Connection) {
        pool.onChange?(endpoint.key, .draining(connection))
        if !waiting.isEmpty { serve() }
    }

    func connectionHasCapacity(_ connection: H2Connection) {
        if !waiting.isEmpty { serve() }
        if connection.streamCount == 0 { watchIdle() }
    }

    func connection(_ connection: H2Connection, closed reason: StreamError?) {
        connections.removeAll { $0 === connection }
        pool.onChange?(endpoint.key, .disconnected(connection, reason))
        if !waiting.isEmpty { serve() }
        forgetIfUnused()
    }
}
