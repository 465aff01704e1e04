import H2Transport
import Logging
import MeshIdentity
import MeshPaths
import MeshPolicy
import Platform
import Streams

/// What peers ask this node for: a CONNECT becomes a policy decision, a route, a dial, and a relay. Confined to its loop.
///
///     HBONE listener → TLS → HTTP/2 → PendingConnect → policy → route → dial → 200 → relay
///
/// 200 is answered only when policy has passed and the backend is connected.
final class InboundStreams {
    private let loop: EventLoop
    private let logger: Logger
    private let live: LiveStreams
    private let outbound: OutboundStreams
    var snapshot: NodeSnapshot

    init(loop: EventLoop, snapshot: NodeSnapshot, live: LiveStreams, outbound: OutboundStreams, logger: Logger) {
        self.loop = loop
        self.snapshot = snapshot
        self.live = live
        self.outbound = outbound
        self.logger = logger
    }

    /// Answers a request, now or later.
    func handle(_ pending: PendingConnect) {
        let request = PolicyEngine.Request(
            source: pending.peer.map { .peer($0) } ?? .unauthenticated,
            sourceIP: pending.transport?.remoteAddress?.address ?? .loopbackIPv4,
            transport: .h2,
            destination: pending.destination
        )
        let decision = snapshot.policy.decide(request)
        for note in decision.notes { logger.notice("\(note)") }
        guard decision.isAllowed else {
            logger.notice("denied", metadata: ["reason": "\(decision.reason)", "to": "\(pending.destination)"])
            // The peer learns that policy refused, not which rule did.
            return pending.reject(.denied("policy"))
        }
        let route = snapshot.router.route(pending.destination, from: .peer)
        switch route.action {
        case .refused(let error):
            logger.notice("denied", metadata: ["reason": "\(error)", "to": "\(pending.destination)"])
            pending.reject(.denied("policy"))
        case .direct(let target, _):
            dial(target, for: pending, request)
        case .mesh(let mesh):
            forward(pending, by: mesh, request)
        }
    }

    private func dial(_ target: Authority, for pending: PendingConnect, _ request: PolicyEngine.Request) {
        let snapshot = snapshot
        let timeout = snapshot.configuration.connections.connectTimeout
        let dialer = Dialer(to: .authority(target), on: loop, options: .init(timeout: timeout)) { address in
            if let refusal = snapshot.router.refusal(dialing: address, port: target.port, from: .peer) {
                return refusal
            }
            guard target.address == nil else { return nil }
            return snapshot.policy.denial(of: request, resolvedTo: address).map { StreamError(.denied, $0.reason) }
        } completion: { [self] result in
            switch result {
            case .success(let socket): open(pending, to: socket, request)
            case .failure(let error):
                logger.info("backend failed", metadata: ["to": "\(target)", "reason": "\(error)"])
                pending.reject(ConnectRejection(error))
            }
        }
        pending.cancelled = { dialer.cancel() }
        dialer.start()
    }

    /// This node is a hop on the way: the stream goes on over the paths of its endpoint.
    private func forward(_ pending: PendingConnect, by route: MeshRoute, _ request: PolicyEngine.Request) {
        var isCancelled = false
        pending.cancelled = { isCancelled = true }
        outbound.open(route, headers: pending.request.headers) { [self] result in
            switch result {
            case .success(let opened):
                if isCancelled { return opened.stream.reset(StreamError(.closed, "the client gave up")) }
                open(pending, to: opened.stream, request)
            case .failure(let error):
                logger.info("next hop failed", metadata: ["to": "\(route.authority)", "reason": "\(error)"])
                pending.reject(ConnectRejection(error))
            }
        }
    }

    private func open(_ pending: PendingConnect, to backend: ByteStream, _ request: PolicyEngine.Request) {
        guard let stream = pending.accept() else {
            return backend.reset(StreamError(.closed, "the client gave up"))
        }
        let logger = logger
        live.relay(stream, backend, for: request) { result in
            logger.debug(
                "stream ended",
                metadata: [
                    "to": "\(request.destination)", "received": "\(result.bytesForward)",
                    "sent": "\(result.bytesBackward)", "reason": "\(result.failure?.message ?? "clean")",
                ]
            )
        }
    }
}
