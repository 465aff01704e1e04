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
    /// The listener whose clients need not be members of the mesh; nil: only those come here.
    private let gate: NodeConfiguration.Listener?
    private var logger: Logger { carrier.logger }
    private var peerLog: PeerLog { carrier.peerLog }
    private var opener: StreamOpener { carrier.opener }

    init(_ carrier: StreamCarrier, gate: NodeConfiguration.Listener? = nil) {
        self.carrier = carrier
        self.gate = gate
        front = carrier.front
    }

    /// Answers a request, now or later.
    func handle(_ pending: PendingConnect) {
        guard let gate else { return handle(pending, details: nil) }
        let connection = pending.transport
        if let connection, connection.failedTokens >= IngressGate.failureLimit {
            // It was told to go, and need not have read that. No more signatures for it.
            let error = StreamError(.closed, "the connection ends: too many requests without a token that holds")
            return refuse(pending, request(pending, nil), GateRefusal(ConnectRejection(error), error))
        }
        switch GateAdmission.details(of: pending, at: gate, carrier.snapshot) {
        case .success(let details):
            connection?.failedTokens = 0
            handle(pending, details: details)
        case .failure(let refusal):
            refuse(pending, request(pending, nil), refusal)
            guard let connection, refusal.rejection.status == 401 else { return }
            connection.failedTokens += 1
            // Whoever makes up tokens pays for another connection. What is open goes on.
            if connection.failedTokens >= IngressGate.failureLimit { connection.drain(deadline: nil) }
        }
    }

    private func request(_ pending: PendingConnect, _ details: RequestDetails?) -> StreamRequest {
        StreamRequest(
            source: pending.peer.map { .peer($0) } ?? .unauthenticated,
            sourceIP: pending.remoteAddress?.address ?? .loopbackIPv4,
            // Behind a proxy on this machine, everybody comes from here: nobody's word counts.
            transport: gate == nil ? TransportMark.transport(of: pending) : .h2,
            destination: pending.destination,
            hops: HopTrail(parsing: pending.request.forwarded),
            details: details,
            now: WallClock.system.seconds
        )
    }

    private func handle(_ pending: PendingConnect, details: RequestDetails?) {
        let request = request(pending, details)
        // Which way it goes says only whether its TLS ends here: with whom, that handshake says.
        if pending.request.tunnelDestination != nil, !isOnItsWay(request) {
            return InnerTunnel.accept(pending, request, StreamCarrier(carrier, at: front))
        }
        if request.source == .unauthenticated, details?.principal == nil {
            let what = "neither a certificate of the mesh nor a token"
            let rejection = ConnectRejection.denied("\(what): only streams with x-tun that end here are served")
            return refuse(pending, request, GateRefusal(rejection, StreamError(.denied, what)))
        }
        let plan = opener.plan(request)
        if let field = Resumptions.field(in: pending) {
            return resume(pending, field, plan, over: request.transport ?? .h2)
        }
        switch plan.outcome {
        case .refused(let refusal):
            refuse(pending, refusal, plan)
        case .dial(let target, _): open(plan, for: pending, nil, failure: "backend failed", to: target)
        // This node is a hop on the way: the stream goes on over the paths of its endpoint.
        case .peer(let route, _):
            var asked = pending.request
            // Who comes from outside of the mesh says nothing in its name.
            if request.source == .unauthenticated { (asked.baggage, asked.service) = (nil, nil) }
            var headers = HopHeaders.next(asked, for: plan, &identifiers)
            if let gate, carrier.snapshot.tokens[gate.name]?.forwardsToken == true {
                headers["authorization"] = pending.request.authorization
            }
            open(plan, for: pending, headers, failure: "next hop failed", to: route.authority)
        }
    }

    /// A stream that is there already goes on over this request: policy is asked about what it comes over now.
    private func resume(_ pending: PendingConnect, _ field: String, _ plan: StreamPlan, over transport: Transport) {
        if case .refused(let refusal) = plan.outcome { return refuse(pending, refusal, plan) }
        guard let resumptions else { return pending.reject(Resumptions.Refusal.unknown("").rejection) }
        resumptions.resume(pending, field, over: transport)
    }

    /// nil: streams end with what carries them.
    private var resumptions: Resumptions? {
        carrier.snapshot.configuration.connections.resumable ? opener.resumptions : nil
    }

    /// Whether another node is on the way to the destination: then the ciphertext goes on to it as it is.
    private func isOnItsWay(_ request: StreamRequest) -> Bool {
        if case .mesh = carrier.snapshot.planner.plan(request).route.action { true } else { false }
    }

    private func refuse(_ pending: PendingConnect, _ request: StreamRequest, _ refusal: GateRefusal) {
        peerLog.log(
            .notice,
            "refused",
            of: pending.peer?.description ?? "\(request.sourceIP)",
            ["reason": "\(refusal.error.message)", "to": "\(pending.destination)"]
        )
        if carrier.records.isOn {
            begin(carrier.snapshot.planner.plan(request), for: pending)?
                .refuse(refusal.error, status: refusal.rejection.status)
        }
        pending.reject(refusal.rejection)
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

    private func accept(_ pending: PendingConnect, _ request: StreamRequest, _ answer: HeaderFields) -> ByteStream? {
        guard Resumptions.isOffered(pending), let resumptions else { return pending.accept(headers: answer) }
        return resumptions.accept(pending, over: request.transport ?? .h2, headers: answer)
    }

    private func join(_ pending: PendingConnect, _ opened: StreamOpener.Opened, _ plan: StreamPlan) {
        guard let stream = accept(pending, plan.request, answer(to: opened)) else { return opened.abandon() }
        if let resumable = stream as? ResumableStream, let ticket = opened.ticket {
            resumable.onResumption = { ticket.resumed($0.history, over: nil) }
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
        let response = (opened.stream as? H2Stream)?.response ?? (opened.stream as? ResumableStream)?.response
        guard let response, let field = HopHeaders.baggage(response.headers) else { return [:] }
        return ["baggage": field]
    }
}
