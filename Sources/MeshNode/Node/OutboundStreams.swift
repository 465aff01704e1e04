import H2Transport
import Logging
import MeshIdentity
import MeshPaths
import MeshPolicy
import Platform
import Streams

/// What this machine's users ask for: a connection to a local listener becomes a route, a stream over the best path to its
/// peer, and a relay. Confined to its loop.
///
///     tcp listener → policy → route → paths → h2 | h2-over-ssh | ssh → relay
final class OutboundStreams {
    private let loop: EventLoop
    private let logger: Logger
    private let live: LiveStreams
    var snapshot: NodeSnapshot {
        didSet {
            guard snapshot.client !== oldValue.client else { return }
            for peer in peers.values { peer.use(snapshot.client, settings: snapshot.configuration.connections) }
        }
    }
    /// The ways to each endpoint in use.
    private var peers: [NodeConfiguration.Endpoint: PeerPaths] = [:]

    init(loop: EventLoop, snapshot: NodeSnapshot, live: LiveStreams, logger: Logger) {
        self.loop = loop
        self.snapshot = snapshot
        self.live = live
        self.logger = logger
    }

    /// Carries an accepted connection to `destination`.
    func carry(_ socket: Socket, to destination: Authority) {
        let request = PolicyEngine.Request(
            source: .localUser,
            sourceIP: socket.peerAddress?.address ?? .loopbackIPv4,
            transport: .h2,
            destination: destination
        )
        let route = snapshot.router.route(destination, from: .local)
        switch route.action {
        case .refused(let error): refuse(socket, destination, error)
        case .direct(let target, _):
            let decision = snapshot.policy.decide(request)
            guard decision.isAllowed else { return refuse(socket, destination, StreamError(.denied, decision.reason)) }
            let router = snapshot.router
            let options = Dialer.Options(timeout: snapshot.configuration.connections.connectTimeout)
            Dialer(to: .authority(target), on: loop, options: options) {
                router.refusal(dialing: $0, port: target.port, from: .local)
            } completion: { [self] result in
                join(socket, result.map { $0 as ByteStream }, request)
            }.start()
        case .mesh(let mesh):
            let policy = snapshot.policy
            open(
                mesh,
                headers: [:],
                permits: { Self.refusal(by: policy, request, over: $0) },
                completion: { [self] result in
                    // Policy is asked again about the way that the stream really takes.
                    var request = request
                    if case .success(let opened) = result { request.transport = opened.transport }
                    join(socket, result.map(\.stream), request)
                }
            )
        }
    }

    /// Opens a stream over the best path of a route. `completion` is called on the loop.
    func open(
        _ route: MeshRoute,
        headers: HeaderFields,
        permits: @escaping (Transport) -> StreamError? = { _ in nil },
        completion: @escaping (Result<OpenedStream, StreamError>) -> Void
    ) {
        guard let paths = paths(to: route.endpoint) else {
            // Between a route of the old configuration and the access of the new one lies a reload.
            return completion(.failure(StreamError(.unreachable, "the endpoint for \(route.authority) is gone")))
        }
        paths.openStream(to: route.authority, headers: headers, permits: permits, completion: completion)
    }

    /// Drops peers that no stream uses any more after a reload.
    func forgetPeers(except endpoints: [NodeConfiguration.Endpoint]) {
        let kept = Set(endpoints)
        for (endpoint, peer) in peers where !kept.contains(endpoint) {
            peer.shutDown()
            peers[endpoint] = nil
        }
    }

    func shutDown() {
        for peer in peers.values { peer.shutDown() }
        peers = [:]
    }

    /// A rule that names its transports forbids the others: the fallback must not be a way around policy.
    private static func refusal(
        by policy: PolicyEngine,
        _ request: PolicyEngine.Request,
        over transport: Transport
    ) -> StreamError? {
        var request = request
        request.transport = transport
        let decision = policy.decide(request)
        return decision.isAllowed ? nil : StreamError(.denied, decision.reason)
    }

    private func paths(to endpoint: NodeConfiguration.Endpoint) -> PeerPaths? {
        if let paths = peers[endpoint] { return paths }
        guard let access = snapshot.access[endpoint] else { return nil }
        let logger = logger
        let paths = PeerPaths(
            to: access,
            context: snapshot.client,
            settings: snapshot.configuration.connections,
            on: loop,
            logger: logger
        ) { change in
            logger.notice("\(endpoint.match): \(change)")
        }
        peers[endpoint] = paths
        return paths
    }

    private func join(_ socket: Socket, _ result: Result<ByteStream, StreamError>, _ request: PolicyEngine.Request) {
        switch result {
        case .failure(let error): refuse(socket, request.destination, error)
        case .success(let stream):
            let logger = logger
            live.relay(socket, stream, for: request) { result in
                guard let failure = result.failure else { return }
                logger.info(
                    "stream cut",
                    metadata: [
                        "to": "\(request.destination)", "sent": "\(result.bytesForward)",
                        "received": "\(result.bytesBackward)", "reason": "\(failure)",
                    ]
                )
            }
        }
    }

    private func refuse(_ socket: Socket, _ destination: Authority, _ error: StreamError) {
        logger.warning("no stream to \(destination): \(error)")
        socket.reset(error)
    }
}
