package import MeshIdentity
public import Streams

/// Keeps HTTP/2 connections to peers and shares each among the tunnels to that peer. Confined to its event loop.
///
/// One dial is in flight for each endpoint at a time, and requests wait for it. A further connection is made when the peer
/// allows no more streams on those there are, when all of them are stalled (``H2Configuration/Windows/stallTime``), and before one
/// that has become too old is retired. A request that a connection refused without looking at it (GOAWAY, REFUSED_STREAM), or
/// that was lost with its connection before it was answered, is repeated on another one; no other is ever repeated.
///
/// A pool belongs to one loop, so that a program with several loops has a connection to a busy peer on each: no stream hops
/// between threads, and no core is the limit of all.
public final class H2ClientPool {
    /// How many connections there are, for how long, and what each is like.
    public struct Configuration: Hashable, Sendable {
        /// The settings of each connection.
        public var http2 = H2Configuration.defaults
        /// A connection without streams is closed after this time; ztunnel's value.
        public var idleTimeout: Duration = .seconds(300)
        /// Connections to one endpoint, those aside that take no more streams. At the limit, requests wait for a stream to end.
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
    package internal(set) var counters = Counters()
    /// What is trusted now, where that has changed since connections were made: those to a peer whose certificate is revoked in it are cut, and
    /// none is used that a handshake with the trust of its beginning brings.
    package var trust: TrustBundleSet? {
        didSet {
            guard let trust, oldValue.map({ !trust.hasSameRevocations(as: $0) }) ?? true else { return }
            var all: [H2Connection] = []
            forEachConnection { all.append($0) }
            for connection in all { connection.end(ifRevokedIn: trust) }
        }
    }
    private var members: [H2Endpoint.Key: PoolMember] = [:]

    /// - Throws: ``Streams/StreamError`` when the configuration is not valid.
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
                let member = PoolMember(endpoint, of: self)
                members[endpoint.key] = member
                return member
            }()
        member.open(request, completion)
    }

    /// The connections to an endpoint that take streams.
    package func connections(to key: H2Endpoint.Key) -> [H2Connection] {
        members[key]?.connections.filter { !$0.isDraining } ?? []
    }

    /// Every connection there is, also those that take no more streams.
    package func forEachConnection(_ body: (H2Connection) -> Void) {
        for member in members.values { member.connections.forEach(body) }
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

    func forget(_ member: PoolMember) {
        if members[member.endpoint.key] === member { members[member.endpoint.key] = nil }
    }
}
