package import MeshIdentity
package import Platform
package import Streams

/// What becomes of a stream that is asked for, and why. An object that does not change: it goes with the stream until
/// that is open.
package final class StreamPlan: Sendable {
    /// What is to be done.
    package enum Outcome: Hashable, Sendable {
        /// Not at all.
        case refused(Refusal)
        /// Dialled from here. A name is resolved; each address, resolved or not, is put to
        /// ``StreamPlanner/refusal(dialing:port:for:)`` first.
        case dial(Authority, tls: DirectTLS?)
        /// This node listens for the peer that asks: on the loopback addresses of this port, and on this address.
        case listen(Authority)
        /// Through a peer, over one of these ways; never empty.
        case peer(MeshRoute, [PathCandidate])
    }

    /// Why a stream is refused.
    package enum Refusal: Hashable, Sendable, CustomStringConvertible {
        /// Policy says so; ``PolicyDecision/rule`` is the rule that decided, if one did.
        case policy(PolicyDecision)
        /// There is no way, or it would be a loop.
        case route(StreamError)

        /// For this side's log: a peer is told no more than that policy refused.
        package var error: StreamError {
            switch self {
            case .policy(let decision): StreamError(.denied, decision.reason)
            case .route(let error): error
            }
        }

        package var description: String {
            switch self {
            case .policy(let decision): decision.reason
            case .route(let error): error.description
            }
        }
    }

    /// A way to the peer, and what policy says of it.
    struct Way: Hashable, Sendable {
        var candidate: PathCandidate
        var decision: PolicyDecision
    }

    package let request: StreamRequest
    /// What policy says of the request; ``PolicyDecision/notes`` are to be logged, whatever comes of it.
    package let decision: PolicyDecision
    /// Where it would go, if policy lets it.
    package let route: Route
    let ways: [Way]
    /// The node's own identity, if it is known.
    package let own: SPIFFEID?
    /// Where the rules are written.
    package let source: String

    /// The ways to its peer that policy permits, best first; empty for a stream that is dialled from here.
    package let candidates: [PathCandidate]
    package let outcome: Outcome

    init(
        request: StreamRequest,
        decision: PolicyDecision,
        route: Route,
        ways: [Way],
        own: SPIFFEID?,
        source: String
    ) {
        self.request = request
        self.decision = decision
        self.route = route
        self.ways = ways
        self.own = own
        self.source = source
        candidates = ways.filter(\.decision.isAllowed).map(\.candidate)
        outcome = Self.outcome(decision, route, ways, candidates)
    }

    private static func outcome(
        _ decision: PolicyDecision,
        _ route: Route,
        _ ways: [Way],
        _ candidates: [PathCandidate]
    ) -> Outcome {
        guard decision.isAllowed else { return .refused(.policy(decision)) }
        switch route.action {
        case .refused(let error): return .refused(.route(error))
        case .direct(let target, let tls): return .dial(target, tls: tls)
        case .listen(let place): return .listen(place)
        case .mesh(let mesh):
            if !candidates.isEmpty { return .peer(mesh, candidates) }
            guard let decision = ways.first?.decision else {
                return .refused(.route(StreamError(.denied, "there is no way to \(mesh.peer.id)")))
            }
            return .refused(.policy(decision))
        }
    }

    /// Whether policy allows the stream and it has a way to go.
    package var isAllowed: Bool {
        if case .refused = outcome { false } else { true }
    }

    /// Whose certificate a server at `target` must show: whom the configuration names, or whom the client asked for.
    package func serverName(_ tls: DirectTLS, at target: Authority) -> String {
        tls.serverName ?? (target.address == nil ? target : request.destination).host
    }

    /// Why the stream must not go over `path`, one of its peer's; nil if it may.
    package func refusal(over path: PathID) -> StreamError? {
        // Not by a closure: a way is much to copy.
        for index in ways.indices where ways[index].candidate.id == path {
            return ways[index].decision.isAllowed ? nil : StreamError(.denied, ways[index].decision.reason)
        }
        return StreamError(.denied, "the plan of the stream does not have the way \(path)")
    }
}

// What `bootstrap explain` prints.
extension StreamPlan: CustomStringConvertible {
    /// `FILE:LINE:COLUMN` of the rule that decided.
    package var rulePlace: String? {
        guard let rule = decision.rule else { return nil }
        return rule.position.map { "\(rule.policy.importedFrom ?? source):\($0)" } ?? rule.policy.holder
    }

    /// What is done with the stream once it is allowed.
    package var routeDescription: String {
        switch route.action {
        case .refused(let error): return "refused: \(error.message)"
        case .direct(let target, let tls):
            let name = tls.map { " with TLS for \(serverName($0, at: target))" } ?? ""
            return "dial \(target)\(name) from here [\(route.reason)]"
        case .listen(let place):
            let beside = place.address?.isLoopback == true ? "" : ", or on \(place)"
            return "listen on port \(place.port) of loopback\(beside) for whoever asks [\(route.reason)]"
        case .mesh(let mesh):
            let candidates = candidates
            if candidates.isEmpty { return "none: policy permits no transport of this endpoint [\(route.reason)]" }
            let ways = candidates.map(\.description).joined(separator: ", then ")
            let peer =
                own.map { mesh.peer.expectation(own: $0).description } ?? "this node's trust domain and namespace"
            return "\(ways), asking for \(mesh.authority), expecting \(peer) [\(route.reason)]"
        }
    }

    /// Five lines for a person.
    package var description: String {
        let place = rulePlace.map { " (\($0))" } ?? ""
        var lines = [
            "from    \(request.sourceDescription) at \(request.sourceIP), over \(request.decidedTransport)",
            "to      \(request.destination)",
        ]
        if let details = request.details {
            let what =
                details.method.map { "\($0) \(details.path ?? "with a path of several meanings")" }
                ?? "a tunnel, in which nobody reads"
            let token = details.principal.map { ", with a token of \($0)" } ?? ""
            lines.append("request \(what)\(token)")
        }
        lines += [
            "policy  \(decision.reason)\(place)"
        ]
        lines += decision.notes.map { "        \($0)" }
        lines.append("route   \(routeDescription)")
        lines.append("result  \(isAllowed ? "allowed" : "denied")")
        return lines.joined(separator: "\n")
    }
}
