public import Logging
public import MeshIdentity
public import Platform
public import Streams

/// Opens streams into the mesh, over connections that it keeps and shares. Safe to use from any task.
///
/// ```swift
/// let client = try await HBONEClient(credentials: .directory("identity"))
/// let text = try await client.withStream(to: Authority(parsing: "db.prod:5432")) { stream in
///     try await stream.write("hello\n")
///     try await stream.finish()
///     var text = ""
///     for try await chunk in stream.inbound { text += String(decoding: chunk, as: UTF8.self) }
///     return text
/// }
/// await client.shutDown()
/// ```
///
/// Connections are mutual TLS 1.3 with HTTP/2, one for each server and identity as long as its stream limit allows; see
/// ``H2ClientPool``. A client that is dropped without ``shutDown(deadline:)`` leaves its thread running.
public final class HBONEClient: Sendable {
    /// What a client's connections are like, and how long it waits.
    public struct Configuration: Hashable, Sendable {
        /// Connections: their number, windows, limits, time-outs.
        public var pool = H2ClientPool.Configuration.defaults
        /// For each address: how long the kernel may try to connect. TLS has its own limit, the request another.
        public var connectTimeout: Duration = .seconds(10)

        /// The defaults.
        public init() {}

        /// What is used where nothing else is asked for.
        public static var defaults: Configuration { Configuration() }
    }

    /// As it was given to ``init(credentials:configuration:loops:logger:)``.
    public let configuration: Configuration
    private let credential: LiveCredential
    private let group: EventLoopGroup
    private let ownsGroup: Bool
    private let loops: [ClientLoop.Bound]
    /// Looks for a credential that has changed: for new connections, and so that those to whoever is revoked now are
    /// cut. Nothing else looks.
    private let following: Task<Void, Never>?

    /// Reads the credential and starts an event loop.
    ///
    /// - Parameters:
    ///   - credentials: Who we are; a directory is followed when its files are renewed.
    ///   - configuration: Connections and time-outs.
    ///   - loops: Loops to use, each with connections of its own; they stay the caller's to shut down. nil, the
    ///     default, starts one.
    ///   - logger: Told of renewed credentials, and of renewals that could not be read.
    /// - Throws: ``MeshIdentity/IdentityError`` for the credential, ``Streams/StreamError`` for the configuration.
    public init(
        credentials: CredentialSource,
        configuration: Configuration = .defaults,
        loops: EventLoopGroup? = nil,
        logger: Logger = Logger(label: "bootstrap.client")
    ) async throws {
        try configuration.pool.http2.validate()
        self.configuration = configuration
        credential = try LiveCredential(credentials, role: .client, logger: logger)
        ownsGroup = loops == nil
        group = loops ?? EventLoopGroup(count: 1)
        var bound: [ClientLoop.Bound] = []
        for loop in group.loops {
            bound.append(
                try await loop.execute {
                    LoopBound(ClientLoop(try H2ClientPool(on: loop, configuration: configuration.pool)), on: loop)
                }
            )
        }
        self.loops = bound
        following = credential.follow { [bound] version in
            for loop in bound { loop.loop.submit { loop.withValue { $0.pool.trust = version.context.trust } } }
        }
    }

    deinit { following?.cancel() }

    /// Our own identity, as the present certificate says.
    public var identity: SPIFFEID { credential.latest.id }

    /// Opens a stream to `authority`, runs `body` with it, and closes it.
    ///
    /// When `body` returns, the stream is finished where it was not, and closed: what was written still arrives, what
    /// the peer still sends is refused. When `body` throws or the task is cancelled, the stream is reset.
    ///
    /// - Parameters:
    ///   - authority: Where the stream is to end: what `:authority` says.
    ///   - peer: The HBONE server it goes through; nil is port 15008 on the authority's own host.
    ///   - headers: Metadata for the other side: `baggage`, `forwarded`, `traceparent`. Names in lower case.
    ///   - isolation: The caller's; leave it out.
    ///   - body: Runs in the caller's isolation. The stream must not be used after it.
    /// - Throws: ``ConnectFailure`` when the stream did not open: `denied` for 403, `authentication` when the server is
    ///   not whom `peer` expects, `unreachable`, `refused`, `timedOut`. ``Streams/StreamError`` `cancelled` when the
    ///   task was cancelled before. What `body` throws, and ``Streams/StreamError`` when the stream failed and `body`
    ///   has not noticed.
    public func withStream<Success>(
        to authority: Authority,
        through peer: HBONEPeer? = nil,
        headers: HeaderFields = [:],
        isolation: isolated (any Actor)? = #isolation,
        _ body: (HBONEStream) async throws -> Success
    ) async throws -> Success {
        let stream = try await open(ConnectRequest(to: authority, headers: headers), peer, authority) { stream in
            guard let identity = stream.transport?.peer else {
                // Between the answer and now the connection has died.
                let error = stream.failure ?? StreamError(.truncated, "the connection ended when the stream opened")
                stream.reset(error)
                throw error
            }
            return HBONEStream(stream, peer: identity)
        }
        return try await stream.scoped(isolation: isolation, body)
    }

    /// Opens a stream for work on its event loop: a relay, a bridge, anything that moves bytes without tasks.
    ///
    /// The caller owns it: enter `loop` with `submit` and close or reset it there.
    ///
    /// - Throws: As ``withStream(to:through:headers:isolation:_:)``.
    public func openStream(
        to authority: Authority,
        through peer: HBONEPeer? = nil,
        headers: HeaderFields = [:]
    ) async throws -> LoopBound<H2Stream> {
        try await open(ConnectRequest(to: authority, headers: headers), peer, authority) { stream in
            LoopBound(stream, on: stream.loop)
        }
    }

    /// Closes the connections. Streams that are open may end within `deadline`, and are cut then. Idempotent.
    ///
    /// Returns when nothing is left; loops that the client started are shut down.
    public func shutDown(deadline: Duration = .seconds(5)) async {
        await withTaskGroup(of: Void.self) { tasks in
            for loop in loops {
                tasks.addTask {
                    await withCheckedContinuation { continuation in
                        let isRunning = loop.loop.submitIfRunning {
                            loop.withValue { $0.drain(deadline: deadline) { continuation.resume() } }
                        }
                        if !isRunning { continuation.resume() }
                    }
                }
            }
        }
        following?.cancel()
        if ownsGroup { await group.shutDown() }
    }

    // MARK: -

    /// Opens a stream and hands it to `take` on its loop.
    private func open<Success: Sendable>(
        _ request: ConnectRequest,
        _ peer: HBONEPeer?,
        _ authority: Authority,
        _ take: @escaping @Sendable (H2Stream) throws -> Success
    ) async throws -> Success {
        let peer = try peer ?? HBONEPeer.onHost(of: authority)
        let addresses: [SocketAddress]
        do {
            addresses = try await Resolver.resolve(host: peer.address.host, port: peer.address.port)
        } catch let error as StreamError {
            throw ConnectFailure(error, isRetryable: true)
        }
        let version = credential.latest
        let expectation = peer.expectation ?? Self.sameNamespace(as: version.id)
        let next = group.next()
        guard let loop = loops.first(where: { $0.loop === next }) else { preconditionFailure("a loop of the group") }
        var failure = ConnectFailure(StreamError(.unreachable, "\(peer.address) has no address"), isRetryable: true)
        for address in addresses {
            let timeout = configuration.connectTimeout
            do {
                return try await PendingOpen.run(on: loop, take) { pool, completion in
                    let endpoint = H2Endpoint.tcp(
                        address,
                        context: version.context,
                        expecting: expectation,
                        timeout: timeout
                    )
                    pool.openStream(request, to: endpoint, completion: completion)
                }
            } catch let error as ConnectFailure where error.response == nil && error.isRetryable {
                failure = error
                // A certificate that is refused is no reason to try elsewhere.
                guard [.refused, .unreachable, .timedOut].contains(error.error.code) else { throw error }
            }
        }
        throw failure
    }

    /// Whom we talk to where nobody is named.
    private static func sameNamespace(as id: SPIFFEID) -> PeerExpectation {
        id.namespace.map { .namespace($0, in: id.trustDomain) } ?? .identities([id])
    }
}

/// The client's part on one event loop: the pool, and how many connections it has. Confined to it.
final class ClientLoop {
    typealias Bound = LoopBound<ClientLoop>

    let pool: H2ClientPool
    private var connections = 0
    private(set) var isDraining = false
    private var drained: [() -> Void] = []

    init(_ pool: H2ClientPool) {
        self.pool = pool
        pool.onChange = { [unowned self] _, change in
            switch change {
            case .connected: connections += 1
            case .disconnected:
                connections -= 1
                checkDrained()
            default: break
            }
        }
    }

    /// `completion` is called on the loop when no connection is left.
    func drain(deadline: Duration, completion: @escaping () -> Void) {
        drained.append(completion)
        if !isDraining {
            isDraining = true
            pool.drain(deadline: deadline)
        }
        checkDrained()
    }

    private func checkDrained() {
        guard isDraining, connections == 0 else { return }
        let waiting = drained
        drained = []
        for resume in waiting { resume() }
    }
}

/// A task that waits for the pool: it gets the stream, the failure, or its cancellation, whichever is first. A stream
/// that comes after that is reset.
private enum PendingOpen {
    private static let shutDown = ConnectFailure(StreamError(.closed, "the client was shut down"))

    static func run<Success: Sendable>(
        on loop: ClientLoop.Bound,
        _ take: @escaping @Sendable (H2Stream) throws -> Success,
        start: @escaping @Sendable (H2ClientPool, @escaping H2ClientPool.Completion) -> Void
    ) async throws -> Success {
        let waiting = Waiting<Success>()
        return try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                guard waiting.begin(continuation) else { return }
                let isRunning = loop.loop.submitIfRunning {
                    loop.withValue { client in
                        guard !client.isDraining else { return waiting.end(.failure(shutDown)) }
                        start(client.pool) { result in
                            switch result {
                            case .failure(let failure): waiting.end(.failure(failure))
                            case .success(let stream):
                                // From here on a cancellation is for the scope of the stream to see.
                                guard let continuation = waiting.claim() else {
                                    return stream.reset(StreamMailbox.cancelled)
                                }
                                continuation.resume(with: Result { try take(stream) })
                            }
                        }
                    }
                }
                if !isRunning { waiting.end(.failure(shutDown)) }
            }
        } onCancel: {
            waiting.end(.failure(StreamMailbox.cancelled))
        }
    }

    private final class Waiting<Success: Sendable>: Sendable {
        private struct State {
            var continuation: CheckedContinuation<Success, any Error>?
            var isOver = false
        }

        private let state = Lock(State())

        /// Returns false where the task was cancelled already.
        func begin(_ continuation: CheckedContinuation<Success, any Error>) -> Bool {
            let isOver = state.withLock { state in
                if !state.isOver { state.continuation = continuation }
                return state.isOver
            }
            if isOver { continuation.resume(throwing: StreamMailbox.cancelled) }
            return !isOver
        }

        /// The continuation for whoever comes first, nil for the others.
        func claim() -> CheckedContinuation<Success, any Error>? {
            state.withLock { state in
                state.isOver = true
                defer { state.continuation = nil }
                return state.continuation
            }
        }

        func end(_ result: Result<Success, any Error>) { claim()?.resume(with: result) }
    }
}
