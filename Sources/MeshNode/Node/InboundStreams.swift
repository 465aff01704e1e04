import H2Transport
import Logging
import MeshIdentity
import MeshPolicy
import Platform
import Streams

/// What peers ask this node for: a CONNECT becomes a request, a plan, a stream, and a relay. Confined to its loop.
///
///     HBONE listener → TLS → HTTP/2 → PendingConnect → plan → dial | another node → 200 → relay
///
/// 200 is answered only when policy has passed and the backend is connected.
final class InboundStreams {
    private let logger: Logger
    private let live: LiveStreams
    private let opener: StreamOpener

    init(live: LiveStreams, opener: StreamOpener, logger: Logger) {
        self.live = live
        self.opener = opener
        self.logger = logger
    }

    /// Answers a request, now or later.
    func handle(_ pending: PendingConnect) {
        let request = StreamRequest(
            source: pending.peer.map { .peer($0) } ?? .unauthenticated,
            sourceIP: pending.transport?.remoteAddress?.address ?? .loopbackIPv4,
            transport: .h2,
            destination: pending.destination,
            now: WallClock.system.seconds
        )
        let plan = opener.plan(request)
        switch plan.outcome {
        case .refused(let refusal):
            logger.notice(
                "denied",
                metadata: [
                    "peer": "\(pending.peer?.description ?? "-")", "reason": "\(refusal)",
                    "to": "\(pending.destination)",
                ]
            )
            // The peer learns that policy refused, not which rule did.
            pending.reject(.denied("policy"))
        case .dial(let target, _): open(plan, for: pending, failure: "backend failed", to: target)
        // This node is a hop on the way: the stream goes on over the paths of its endpoint.
        case .peer(let route, _): open(plan, for: pending, failure: "next hop failed", to: route.authority)
        }
    }

    private func open(_ plan: StreamPlan, for pending: PendingConnect, failure: Logger.Message, to target: Authority) {
        pending.cancelled = opener.open(plan, headers: pending.request.headers) { [self] result in
            switch result {
            case .success(let opened): join(pending, opened, plan.request)
            case .failure(let error):
                logger.info(failure, metadata: ["to": "\(target)", "reason": "\(error)"])
                pending.reject(ConnectRejection(error))
            }
        }
    }

    private func join(_ pending: PendingConnect, _ opened: StreamOpener.Opened, _ request: StreamRequest) {
        guard let stream = pending.accept() else {
            return opened.stream.reset(StreamError(.closed, "the client gave up"))
        }
        let logger = logger
        live.relay(stream, opened.stream, for: request, over: opened.path) { result in
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
