import H2Transport
import Logging
import MeshIdentity
import MeshPaths
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
    /// For what a peer can cause as often as it likes.
    private let peerLog: PeerLog
    private let live: LiveStreams
    private let opener: StreamOpener

    init(live: LiveStreams, opener: StreamOpener, logger: Logger) {
        self.live = live
        self.opener = opener
        self.logger = logger
        peerLog = PeerLog(logger, on: opener.loop)
    }

    /// Answers a request, now or later.
    func handle(_ pending: PendingConnect) {
        guard pending.request.tunnelDestination == nil else {
            peerLog.log(
                .notice,
                "refused",
                of: Self.name(of: pending),
                ["reason": "x-tun is not served", "to": "\(Printable.escape(pending.request.authority))"]
            )
            return pending.reject(.innerTunnel)
        }
        let plan = opener.plan(
            pending.peer.map { .peer($0) } ?? .unauthenticated,
            at: pending.remoteAddress?.address ?? .loopbackIPv4,
            over: TransportMark.transport(of: pending),
            to: pending.destination,
            through: HopTrail(parsing: pending.request.forwarded)
        )
        switch plan.outcome {
        case .refused(let refusal):
            refuse(pending, refusal, plan)
        case .dial(let target, _): open(plan, for: pending, [:], failure: "backend failed", to: target)
        // This node is a hop on the way: the stream goes on over the paths of its endpoint.
        case .peer(let route, _):
            let headers = HopHeaders.next(pending.request, for: plan)
            open(plan, for: pending, headers, failure: "next hop failed", to: route.authority)
        }
    }

    private func refuse(_ pending: PendingConnect, _ refusal: StreamPlan.Refusal, _ plan: StreamPlan) {
        guard refusal.error.code != .loop else {
            peerLog.log(
                .warning,
                "a loop",
                of: Self.name(of: pending),
                [
                    "reason": "\(refusal)", "to": "\(pending.destination)",
                    "through": "\(Printable.escape(plan.request.hops.description))",
                ]
            )
            return pending.reject(ConnectRejection(refusal.error))
        }
        peerLog.log(
            .notice,
            "denied",
            of: Self.name(of: pending),
            ["reason": "\(refusal)", "to": "\(pending.destination)"]
        )
        // The peer learns that policy refused, not which rule did.
        pending.reject(.denied("policy"))
    }

    private static func name(of pending: PendingConnect) -> String { pending.peer?.description ?? "unauthenticated" }

    private func open(
        _ plan: StreamPlan,
        for pending: PendingConnect,
        _ headers: HeaderFields,
        failure: String,
        to target: Authority
    ) {
        pending.cancelled = opener.open(plan, headers: headers) { [self] result in
            switch result {
            case .success(let opened): join(pending, opened, plan.request)
            case .failure(let error):
                peerLog.log(.info, failure, of: Self.name(of: pending), ["to": "\(target)", "reason": "\(error)"])
                pending.reject(ConnectRejection(error))
            }
        }
    }

    private func join(_ pending: PendingConnect, _ opened: StreamOpener.Opened, _ request: StreamRequest) {
        guard let stream = pending.accept() else {
            return opened.stream.reset(StreamError(.closed, "the client gave up"))
        }
        let logger = logger
        live.relay(stream, opened, for: request) { result in
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
