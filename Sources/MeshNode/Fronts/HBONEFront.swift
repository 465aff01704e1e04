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
    /// For the traces of requests that are in none, and came without TLS.
    private var identifiers = IdentifierGenerator()
    /// Where clients need not be members of the mesh; nil: only those come here.
    private let gate: Gate?
    /// Takes a connection to this very node that comes inside of a stream of a connection that this node holds.
    var onNested: ((ByteStream) -> Void)?
    private var logger: Logger { carrier.logger }
    private var peerLog: PeerLog { carrier.peerLog }
    private var opener: StreamOpener { carrier.opener }

    /// An object: to be asked whether it is there, a listener's settings would be copied for each stream.
    private final class Gate {
        let listener: NodeConfiguration.Listener

        init(_ listener: NodeConfiguration.Listener) { self.listener = listener }
    }

    /// - Parameter gate: The listener, where its clients need not be members of the mesh.
    init(_ carrier: StreamCarrier, gate: NodeConfiguration.Listener? = nil) {
        self.carrier = carrier
        self.gate = gate.map(Gate.init)
    }

    /// Where a stream comes in.
    private func front(of pending: PendingConnect) -> FrontName {
        pending.transport?.origin as? FrontName ?? carrier.front
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
        switch GateAdmission.details(of: pending, at: gate.listener, carrier.snapshot) {
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
        if let onNested, isForThisNode(pending, request) {
            // As whoever connects to a listener: who that is, and what it may, is decided inside.
            pending.accept().map(onNested)
            return
        }
        // Which way it goes says only whether its TLS ends here: with whom, that handshake says.
        if pending.request.tunnelDestination != nil, !isOnItsWay(request) {
            return InnerTunnel.accept(pending, request, StreamCarrier(carrier, at: front(of: pending)))
        }
        if request.source == .unauthenticated, details?.principal == nil {
            let what = "neither a certificate of the mesh nor a token"
            let rejection = ConnectRejection.denied("\(what): only streams with x-tun that end here are served")
            return refuse(pending, request, GateRefusal(rejection, StreamError(.denied, what)))
        }
        let plan = opener.plan(request)
        if let field = Resumptions.field(in: pending) {
            return resume(pending, field, plan)
        }
        switch plan.outcome {
        case .refused(let refusal):
            refuse(pending, refusal, plan)
        case .dial(let target, _): open(plan, for: pending, nil, failure: "backend failed", to: target)
        case .listen(let place): listen(pending, plan, at: place)
        // This node is a hop on the way: the stream goes on over the paths of its endpoint.
        case .peer(let route, _):
            var asked = pending.request
            // Who comes from outside of the mesh says nothing in its name.
            if request.source == .unauthenticated { (asked.baggage, asked.service) = (nil, nil) }
            let trace =
                TraceParent(parsing: asked.traceparent) ?? pending.ownTrace ?? TraceParent(using: &identifiers)
            var headers = HopHeaders.next(asked, for: plan, in: trace)
            if let gate, carrier.snapshot.tokens[gate.listener.name]?.forwardsToken == true {
                headers["authorization"] = pending.request.authorization
            }
            // Who holds the connection to this node is asked for what this node's client asks: a stream that outlives
            // one connection on its way outlives the other one, too.
            if Self.mayBeReverse(plan), Resumptions.isOffered(pending), resumptions != nil {
                Resumptions.offer(in: &headers)
            }
            open(plan, for: pending, headers, failure: "next hop failed", to: route.authority)
        }
    }

    /// Whether it asks, over a connection that this node holds, for the HBONE server that nobody can dial: for mutual
    /// TLS with this node itself, through a gateway that sees ciphertext.
    private func isForThisNode(_ pending: PendingConnect, _ request: StreamRequest) -> Bool {
        guard request.transport == .h2Reverse, pending.request.tunnelDestination == nil,
            request.destination.address?.isLoopback ?? (request.destination.host == "localhost")
        else { return false }
        // One that asks for more than a certificate of the mesh is dialled, as policy allows it, and asks itself.
        if carrier.snapshot.meshPorts.contains(request.destination.port) { return true }
        let listens = carrier.snapshot.configuration.listeners.contains { $0.protocol == .hbone }
        return !listens && request.destination.port == Self.port
    }

    /// Where HBONE servers listen by custom.
    private static let port: UInt16 = 15008

    /// A stream that is there already goes on over this request: policy is asked about what it is now, and again later.
    private func resume(_ pending: PendingConnect, _ field: String, _ plan: StreamPlan) {
        if case .refused(let refusal) = plan.outcome { return refuse(pending, refusal, plan) }
        guard let resumptions else { return pending.reject(Resumptions.Refusal.unknown("").rejection) }
        resumptions.resume(pending, field, plan.request)
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

    /// - Parameter headers: As they go on; nil: they do not.
    private func begin(
        _ plan: StreamPlan,
        for pending: PendingConnect,
        goingOnWith headers: HeaderFields? = nil
    ) -> StreamTicket? {
        let ticket = carrier.records.begin(plan, at: front(of: pending))
        guard let ticket else { return nil }
        ticket.client = pending.remoteAddress
        ticket.trace =
            TraceParent(parsing: headers?["traceparent"] ?? pending.request.traceparent) ?? pending.ownTrace
        ticket.metadata = StreamMetadata(pending.request)
        return ticket
    }

    private func refuse(_ pending: PendingConnect, _ refusal: StreamPlan.Refusal, _ plan: StreamPlan) {
        refuse(pending, refusal, plan, begin(plan, for: pending))
    }

    private func refuse(
        _ pending: PendingConnect,
        _ refusal: StreamPlan.Refusal,
        _ plan: StreamPlan,
        _ ticket: StreamTicket?
    ) {
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
        if plan.request.destination.host == PeerListening.host { details = PeerListening.refusal(details) }
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
        let ticket = begin(plan, for: pending, goingOnWith: headers)
        let before = carrier.snapshot
        let cancel = opener.open(plan, headers: headers ?? [:]) { [self] result in
            switch result {
            case .success(var opened):
                if let ticket { carrier.note(&opened, ticket) }
                join(pending, opened, plan, by: before)
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

    /// Listens for a peer, for as long as it keeps the stream that it asks by.
    private func listen(_ pending: PendingConnect, _ plan: StreamPlan, at allowed: Authority) {
        // What is listened on now would have to be let go at once: the client asks another process, or is told that
        // there is none.
        guard !carrier.isDraining else { return pending.refuseUnseen() }
        listen(pending, plan, at: allowed, begin(plan, for: pending), isAgain: false)
    }

    private func listen(
        _ pending: PendingConnect,
        _ plan: StreamPlan,
        at allowed: Authority,
        _ ticket: StreamTicket?,
        isAgain: Bool
    ) {
        do throws(StreamError) {
            guard let peer = pending.peer else {
                throw StreamError(.denied, "only members of the mesh have it listen")
            }
            let place = try PeerListener.place(pending.request.headers[PeerListening.field], within: allowed)
            do throws(StreamError) {
                try serve(pending, try PeerListener(at: place, for: plan, of: peer, carrier), ticket)
            } catch {
                guard error.code == .addressInUse || error.code == .limit, !isAgain else { throw error }
                let next = { [self] (hasRoom: Bool) in
                    guard hasRoom else { return refuseToListen(pending, error, ticket) }
                    listenAgain(pending, plan.request, ticket)
                }
                let waiting = LoopBound(next, on: carrier.loop)
                guard PeerListener.makeRoom(at: place.address, for: peer, among: carrier.ports, error, waiting) else {
                    throw error
                }
            }
        } catch {
            refuseToListen(pending, error, ticket)
        }
    }

    /// There is room now, after a wait: what was decided before it need not hold any more.
    private func listenAgain(_ pending: PendingConnect, _ request: StreamRequest, _ ticket: StreamTicket?) {
        guard !carrier.isDraining else {
            ticket?.giveUp()
            return pending.refuseUnseen()
        }
        let plan = opener.plan(request.at(WallClock.system.seconds))
        switch plan.outcome {
        case .listen(let allowed): listen(pending, plan, at: allowed, ticket, isAgain: true)
        case .refused(let refusal): refuse(pending, refusal, plan, ticket)
        case .dial, .peer:
            refuseToListen(pending, StreamError(.denied, "the configuration has changed meanwhile"), ticket)
        }
    }

    private func serve(
        _ pending: PendingConnect,
        _ listener: PeerListener,
        _ ticket: StreamTicket?
    ) throws(StreamError) {
        let headers: HeaderFields = [PeerListening.field: listener.place.description]
        let stream: ByteStream?
        if Resumptions.isOffered(pending), let resumptions {
            stream = resumptions.accept(pending, headers: headers)
        } else {
            stream = pending.accept(headers: headers)
        }
        guard let stream else {
            ticket?.giveUp()
            return listener.close()
        }
        try listener.serve(over: stream, ticket)
    }

    private func refuseToListen(_ pending: PendingConnect, _ error: StreamError, _ ticket: StreamTicket?) {
        peerLog.log(
            .notice,
            "does not listen",
            of: Self.name(of: pending),
            ["reason": "\(error.message)", "to": "\(pending.destination)"]
        )
        var rejection = ConnectRejection(error)
        rejection.reason?.details = PeerListening.refusal(error.message)
        ticket?.refuse(error, status: rejection.status)
        pending.reject(rejection)
    }

    private static func mayBeReverse(_ plan: StreamPlan) -> Bool {
        guard case .peer(_, let candidates) = plan.outcome else { return false }
        return candidates.contains { $0.id.transport == .h2Reverse }
    }

    private func accept(_ pending: PendingConnect, _ opened: StreamOpener.Opened, _ plan: StreamPlan) -> ByteStream? {
        let answer = answer(to: opened)
        // What goes on over a connection that is held outlives it only where the device says so: else this node does
        // not promise it either.
        let isWhole = opened.currentPath?.transport != .h2Reverse || opened.lowest is ResumableStream
        guard isWhole, Resumptions.isOffered(pending), let resumptions else { return pending.accept(headers: answer) }
        return resumptions.accept(pending, headers: answer)
    }

    /// - Parameter planner: Whose plan it is: what holds by now may number its endpoints in another way.
    private func join(
        _ pending: PendingConnect,
        _ opened: StreamOpener.Opened,
        _ plan: StreamPlan,
        by planner: NodeSnapshot
    ) {
        let front = front(of: pending)
        guard let stream = accept(pending, opened, plan) else { return opened.abandon() }
        if let resumable = stream as? ResumableStream, let ticket = opened.ticket {
            resumable.onResumption = { ticket.resumed($0.history, over: nil) }
        }
        let request = plan.request
        let isTransit = opened.path != nil && !planner.letsFiltersSee(plan)
        carrier.live.relay(stream, opened, for: request, at: front, isTransit: isTransit) { [self] result in
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
        guard let response = opened.response, let field = HopHeaders.baggage(response.headers) else { return [:] }
        return ["baggage": field]
    }
}
