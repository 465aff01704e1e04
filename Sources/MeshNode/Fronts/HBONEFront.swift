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
        let transport = TransportMark.transport(of: pending)
        let request = StreamRequest(
            source: pending.peer.map { .peer($0) } ?? .unauthenticated,
            sourceIP: pending.remoteAddress?.address ?? .loopbackIPv4,
            transport: transport,
            destination: pending.destination,
            hops: HopTrail(parsing: pending.request.forwarded),
            now: WallClock.system.seconds
        )
        guard pending.request.tunnelDestination == nil else { return refuseInnerTunnel(pending, request) }
        let plan = opener.plan(request)
        if let field = Resumptions.field(in: pending) { return resume(pending, field, plan, over: transport) }
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

    /// A stream that is there already goes on over this request: policy is asked about what it comes over now.
    private func resume(
        _ pending: PendingConnect,
        _ field: String,
        _ plan: StreamPlan,
        over transport: Transport
    ) {
        if case .refused(let refusal) = plan.outcome { return refuse(pending, refusal, plan) }
        guard let resumptions else { return pending.reject(Resumptions.Refusal.unknown("").rejection) }
        resumptions.resume(pending, field, over: transport)
    }

    /// nil: streams end with what carries them.
    private var resumptions: Resumptions? {
        carrier.snapshot.configuration.connections.resumable ? opener.resumptions : nil
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
        ticket?.client = pending.remoteAddress
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
        // The peer learns that policy refused, not which rule did.
        let rejection = ConnectRejection.denied("policy")
        ticket?.refuse(refusal.error, status: rejection.status)
        pending.reject(rejection)
    }

    private static func name(of pending: PendingConnect) -> String { pending.peer?.description ?? "unauthenticated" }

    private func open(
        _ plan: StreamPlan,
        for pending: PendingConnect,
        _ headers: HeaderFields,
        failure: String,
        to target: Authority
    ) {
        let ticket = begin(plan, for: pending)
        let cancel = opener.open(plan, headers: headers) { [self] result in
            switch result {
            case .success(var opened):
                if let ticket { carrier.note(&opened, ticket) }
                join(pending, opened, plan.request)
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

    private func accept(_ pending: PendingConnect, _ request: StreamRequest) -> ByteStream? {
        guard Resumptions.isOffered(pending), let resumptions else { return pending.accept() }
        return resumptions.accept(pending, over: request.transport ?? .h2)
    }

    private func join(_ pending: PendingConnect, _ opened: StreamOpener.Opened, _ request: StreamRequest) {
        guard let stream = accept(pending, request) else { return opened.abandon() }
        if let resumable = stream as? ResumableStream, let ticket = opened.ticket {
            resumable.onResumption = { ticket.resumed($0.history, over: nil) }
        }
        let logger = logger
        carrier.live.relay(stream, opened, for: request) { result in
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
