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
final class HBONEFront {
    private let carrier: StreamCarrier
    /// For the traces of requests that are in none.
    private var identifiers = IdentifierGenerator()
    /// Where its streams come in.
    var front: FrontName
    private var logger: Logger { carrier.logger }
    private var peerLog: PeerLog { carrier.peerLog }
    private var opener: StreamOpener { carrier.opener }

    init(_ carrier: StreamCarrier) {
        self.carrier = carrier
        front = carrier.front
    }

    /// Answers a request, now or later.
    func handle(_ pending: PendingConnect) {
        let request = StreamRequest(
            source: pending.peer.map { .peer($0) } ?? .unauthenticated,
            sourceIP: pending.remoteAddress?.address ?? .loopbackIPv4,
            transport: TransportMark.transport(of: pending),
            destination: pending.destination,
            hops: HopTrail(parsing: pending.request.forwarded),
            now: WallClock.system.seconds
        )
        guard pending.request.tunnelDestination == nil else { return refuseInnerTunnel(pending, request) }
        let plan = opener.plan(request)
        switch plan.outcome {
        case .refused(let refusal):
            refuse(pending, refusal, plan)
        case .dial(let target, _): open(plan, for: pending, nil, failure: "backend failed", to: target)
        // This node is a hop on the way: the stream goes on over the paths of its endpoint.
        case .peer(let route, _):
            let headers = HopHeaders.next(pending.request, for: plan, &identifiers)
            open(plan, for: pending, headers, failure: "next hop failed", to: route.authority)
        }
    }

    private func refuseInnerTunnel(_ pending: PendingConnect, _ request: StreamRequest) {
        let error = StreamError(.badRequest, "x-tun is not served")
        peerLog.log(
            .notice,
            "refused",
            of: Self.name(of: pending),
            ["reason": "\(error.message)", "to": "\(Printable.escape(pending.request.authority))"]
        )
        let rejection = ConnectRejection.innerTunnel
        if carrier.records.isOn { begin(opener.plan(request), for: pending)?.refuse(error, status: rejection.status) }
        pending.reject(rejection)
    }

    private func begin(_ plan: StreamPlan, for pending: PendingConnect) -> StreamTicket? {
        let ticket = carrier.records.begin(plan, at: front)
        guard let ticket else { return nil }
        ticket.client = pending.remoteAddress
        ticket.metadata = StreamMetadata(pending.request)
        return ticket
    }

    private func refuse(_ pending: PendingConnect, _ refusal: StreamPlan.Refusal, _ plan: StreamPlan) {
        let ticket = begin(plan, for: pending)
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
            let rejection = ConnectRejection(refusal.error)
            ticket?.refuse(refusal.error, status: rejection.status)
            return pending.reject(rejection)
        }
        peerLog.log(
            .notice,
            "denied",
            of: Self.name(of: pending),
            ["reason": "\(refusal)", "to": "\(pending.destination)"]
        )
        // The peer learns that policy refused, and whether that was for the way it came, not which rule did.
        var details = "policy"
        if case .policy(let decision) = refusal, let transport = decision.forbiddenTransport {
            details = "policy does not allow it over \(transport)"
        }
        let rejection = ConnectRejection.denied(details)
        ticket?.refuse(refusal.error, status: rejection.status)
        pending.reject(rejection)
    }

    private static func name(of pending: PendingConnect) -> String { pending.peer?.description ?? "unauthenticated" }

    private func open(
        _ plan: StreamPlan,
        for pending: PendingConnect,
        _ headers: HeaderFields?,
        failure: String,
        to target: Authority
    ) {
        let ticket = begin(plan, for: pending)
        if let ticket, let headers { ticket.metadata = StreamMetadata(pending.request, goingOnWith: headers) }
        let cancel = opener.open(plan, headers: headers ?? [:]) { [self] result in
            switch result {
            case .success(var opened):
                if let ticket { carrier.note(&opened, ticket) }
                join(pending, opened, plan)
            case .failure(let error):
                peerLog.log(.info, failure, of: Self.name(of: pending), ["to": "\(target)", "reason": "\(error)"])
                let rejection = ConnectRejection(error)
                ticket?.refuse(error, status: rejection.status)
                pending.reject(rejection)
            }
        }
        guard let ticket else {
            pending.cancelled = cancel
            return
        }
        pending.cancelled = {
            cancel()
            ticket.giveUp()
        }
    }

    private func join(_ pending: PendingConnect, _ opened: StreamOpener.Opened, _ plan: StreamPlan) {
        guard let stream = pending.accept(headers: answer(to: opened)) else {
            return opened.abandon()
        }
        let (logger, request) = (logger, plan.request)
        let isTransit = opened.path != nil && !carrier.snapshot.configuration.letsFiltersSee(plan)
        carrier.live.relay(stream, opened, for: request, at: front, isTransit: isTransit) { result in
            logger.debug(
                "stream ended",
                metadata: [
                    "to": "\(request.destination)", "received": "\(result.bytesForward)",
                    "sent": "\(result.bytesBackward)", "reason": "\(result.failure?.message ?? "clean")",
                ]
            )
        }
    }

    /// What the client is told of who is at the other end: by the next node, where there is one, else by this one.
    private func answer(to opened: StreamOpener.Opened) -> HeaderFields {
        guard opened.path != nil else { return carrier.snapshot.answer }
        guard let response = (opened.stream as? H2Stream)?.response, let field = HopHeaders.baggage(response.headers)
        else { return [:] }
        return ["baggage": field]
    }
}
