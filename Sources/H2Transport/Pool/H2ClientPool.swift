package import MeshIdentity
public import Streams

/// Keeps HTTP/2 connections to peers and shares each among the tunnels to that peer. Confined to its event loop.
///
/// One dial is in flight for each endpoint at a time, and requests wait for it. A further connection is made when the
/// peer allows no more streams on those there are, when all of them are stalled
/// (``H2Configuration/Windows/stallTime``), and before one that has become too old is retired. A request that a
/// connection refused without looking at it (GOAWAY, REFUSED_STREAM), or that was lost with its connection before it
/// was answered, is repeated on another one; no other is ever repeated. A peer that refuses streams with REFUSED_STREAM
/// although it had announced them gets no more at once than it took, and the rest waits.
///
/// A pool belongs to one loop, so that a program with several loops has a connection to a busy peer on each: no stream
/// hops between threads, and no core is the limit of all.
public final class H2ClientPool {
    /// How many connections there are, for how long, and what each is like.
    public struct Configuration: Hashable, Sendable {
        /// The settings of each connection.
        public var http2 = H2Configuration.defaults
        /// A connection without streams is closed after this time; ztunnel's value.
        public var idleTimeout: Duration = .seconds(300)
        /// Connections to one endpoint, those aside that take no more streams. At the limit, requests wait for a stream
        /// to end.
        public var connectionsPerEndpoint = 16
        /// How often a request is tried where it can be repeated without harm.
        public var attempts = 4
        /// Requests that may wait for one endpoint; more fail with `limit`.
        public var waitingRequests = 4096

        /// The defaults.
        public init() {}

        /// What is used where nothing else is asked for.
        public static var defaults: Configuration { Configuration() }
    }

    /// What happens to the connections of an endpoint.
    package enum Change {
        /// A connection is up: its handshake is done.
        case connected(H2Connection)
        /// A dial failed.
        case failed(StreamError)
        /// A connection takes no more streams (GOAWAY).
        case draining(H2Connection)
        /// A connection is gone; nil when it was closed with nothing lost.
        case disconnected(H2Connection, StreamError?)
    }

    /// What the pool has done so far.
    package struct Counters: Hashable, Sendable {
        /// Connections that came up, and dials that failed.
        package var connected = 0
        package var failedDials = 0
        /// Connections made although others were up: because of the peer's stream limit, or its stalled windows.
        package var overflows = 0
        /// Connections made to replace one that had become too old.
        package var replacements = 0
        /// Connections closed because they were idle.
        package var idleCloses = 0
        /// Requests that were repeated on another connection.
        package var repeatedRequests = 0

        package init() {}
    }

    /// Called once, on the pool's loop, with the open stream or why there is none.
    public typealias Completion = (Result<H2Stream, ConnectFailure>) -> Void

    /// Where the pool lives: every method is called here.
    public let loop: EventLoop
    package let configuration: Configuration
    /// Told of every change, on the loop.
    package var onChange: ((H2Endpoint.Key, Change) -> Void)?
    package var counters: Counters { groups.values.reduce(into: pastCounters) { $0.add($1.counters) } }
    /// See ``ConnectionGroupDriver/trust``.
    package var trust: TrustBundleSet? {
        didSet { for group in groups.values { group.trust = trust } }
    }
    private var groups: [H2Endpoint.Key: ConnectionGroupDriver] = [:]
    /// Of groups that are gone.
    private var pastCounters = Counters()

    /// - Throws: ``Streams/StreamError`` when the configuration is not valid.
    public init(on loop: EventLoop, configuration: Configuration = .defaults) throws(StreamError) {
        try configuration.http2.validate()
        self.loop = loop
        self.configuration = configuration
    }

    /// Opens a tunnel over a connection to `endpoint`, made now where there is none. `completion` is called once, on
    /// the loop and never from inside this call.
    public func openStream(_ request: ConnectRequest, to endpoint: H2Endpoint, completion: @escaping Completion) {
        let group = groups[endpoint.key] ?? makeGroup(endpoint)
        group.open(request, completion: completion)
    }

    private func makeGroup(_ endpoint: H2Endpoint) -> ConnectionGroupDriver {
        let settings = ConnectionGroupDriver.Settings(
            http2: configuration.http2,
            firstAnswer: nil,
            rules: configuration.rules,
            repeatsRequests: true
        )
        let group = ConnectionGroupDriver(to: endpoint, settings: settings, on: loop)
        group.trust = trust
        let key = endpoint.key
        // A request under way keeps its group, which may outlive the pool.
        group.onEvent = { [weak self, unowned group] event in
            guard let self else { return }
            switch event {
            case .connected(let connection): onChange?(key, .connected(connection))
            case .failed(let error, _): onChange?(key, .failed(error))
            case .draining(let connection): onChange?(key, .draining(connection))
            case .disconnected(let connection, let reason): onChange?(key, .disconnected(connection, reason))
            case .unused: forget(group)
            case .up, .down, .idle: break
            }
        }
        groups[key] = group
        return group
    }

    private func forget(_ group: ConnectionGroupDriver) {
        guard groups[group.endpoint.key] === group else { return }
        groups[group.endpoint.key] = nil
        pastCounters.add(group.counters)
    }

    /// The connections to an endpoint that take streams.
    package func connections(to key: H2Endpoint.Key) -> [H2Connection] {
        groups[key]?.connections.filter { !$0.isDraining } ?? []
    }

    /// Every connection there is, also those that take no more streams.
    package func forEachConnection(_ body: (H2Connection) -> Void) {
        for group in groups.values { group.connections.forEach(body) }
    }

    /// Closes idle connections, and lets the others end with their streams, until `deadline`.
    public func drain(deadline: Duration) {
        for group in groups.values { group.drain(deadline: deadline) }
    }

    /// Cuts everything.
    public func close() {
        let before = groups
        groups = [:]
        for group in before.values {
            group.close()
            pastCounters.add(group.counters)
        }
    }
}

extension H2ClientPool.Configuration {
    fileprivate var rules: ConnectionGroupDriver.Settings.Rules {
        var rules = ConnectionGroupDriver.Settings.Rules()
        rules.connections = connectionsPerEndpoint
        rules.waitingRequests = waitingRequests
        rules.attempts = attempts
        rules.idleTimeout = idleTimeout
        rules.settlingTime = http2.requestTimeout
        return rules
    }
}

extension H2ClientPool.Counters {
    fileprivate mutating func add(_ other: Self) {
        connected += other.connected
        failedDials += other.failedDials
        overflows += other.overflows
        replacements += other.replacements
        idleCloses += other.idleCloses
        repeatedRequests += other.repeatedRequests
    }
}
