package import MeshIdentity
package import Platform
package import Streams

/// Says what becomes of a stream that somebody asks for. One function decides for every way into a node, and `explain`
/// prints what it says: whatever a node does, it does by a plan.
///
/// ```
/// StreamRequest ─→ policy: who may? ─→ route: where is it? ─→ policy: over which ways to the peer? ─→ StreamPlan
///                                                                                                     refused, and why
///                                                                                                     dial this address
///                                                                                                     this peer, these candidates
/// ```
///
/// Pure and immutable, as the rules that it is made of: a reload makes a new one. An object, since whoever opens a
/// stream keeps it until the stream is open.
package final class StreamPlanner: Sendable {
    package let policy: PolicyEngine
    package let router: Router
    /// This node's identity, if it is known.
    package let own: SPIFFEID?
    private let source: String

    /// - Parameters:
    ///   - rules: What holds.
    ///   - own: The identity of this node; without it (unknown yet) the default policy allows no peer anything.
    ///   - ownAddresses: The addresses of this machine; loopback is known without.
    ///   - ownNames: Normalised host names that mean this machine.
    ///   - previous: Made of the same policies, for the same node: they are not filed again.
    package init(
        _ rules: MeshRules,
        own: SPIFFEID?,
        ownAddresses: Set<IPAddress>,
        ownNames: Set<String> = ["localhost"],
        withPoliciesOf previous: StreamPlanner? = nil
    ) {
        let policy = PolicyEngine(rules, own: own, withPoliciesOf: previous?.policy)
        self.policy = policy
        self.own = own
        source = rules.source
        router = Router(rules, policy: policy, ownAddresses: ownAddresses, ownNames: ownNames)
    }

    /// What is done with `request`.
    package func plan(_ request: StreamRequest) -> StreamPlan {
        let route = route(of: request)
        let attributes = policy.attributes(of: request)
        func decide(over transport: Transport) -> PolicyDecision {
            policy.decide(request, attributes, over: transport)
        }
        func plan(_ decision: PolicyDecision, over transport: Transport, ways: [StreamPlan.Way]) -> StreamPlan {
            let decision = policy.annotated(decision, attributes, over: transport)
            return StreamPlan(request: request, decision: decision, route: route, ways: ways, own: own, source: source)
        }
        let transport = request.decidedTransport
        guard case .mesh(let mesh) = route.action else {
            return plan(decide(over: transport), over: transport, ways: [])
        }
        // Each node on the way decides for itself, and a rule that names its transports forbids the others: the
        // fallback must not be a way around policy, neither for a local user nor for a peer whose stream goes on from
        // here.
        let ways = mesh.peer.candidates.map { candidate in
            StreamPlan.Way(candidate: candidate, decision: decide(over: candidate.id.transport))
        }
        // A stream that has come over nothing yet is allowed if any way is.
        if request.transport == nil, let way = ways.first(where: \.decision.isAllowed) ?? ways.first {
            return plan(way.decision, over: way.candidate.id.transport, ways: ways)
        }
        return plan(decide(over: transport), over: transport, ways: ways)
    }

    /// Whether `address` must not be dialled for `request`, and why. The one place where addresses are judged: whatever
    /// a plan's ``StreamPlan/Outcome/dial(_:tls:)`` leads to is asked about here, for every way into a node.
    ///
    /// A name can be made to resolve to anything, and an endpoint leads where its `address` says. What routing guards
    /// for addresses, and what DENY policies say of them, holds for what is dialled in the end. Dial the very address
    /// that was asked about: resolving again could answer differently.
    ///
    /// - Parameter route: Where the plan of the request leads, if there is one.
    package func refusal(
        dialing address: IPAddress,
        port: UInt16,
        for request: StreamRequest,
        by route: Route? = nil
    ) -> StreamError? {
        let route = route ?? self.route(of: request)
        if let refusal = router.refusal(dialing: address, port: port, from: origin(of: request), by: route) {
            return refusal
        }
        return policy.denial(of: request, dialing: Authority(address: address, port: port))
            .map { StreamError(.denied, $0.reason) }
    }

    /// Whether nothing must be dialled of what the name of `plan` resolved to; asked once about all of it, before each
    /// address is.
    package func refusal(ofAnswer addresses: [IPAddress], for name: String, in plan: StreamPlan) -> StreamError? {
        router.refusal(ofAnswer: addresses, for: name, by: plan.route)
    }

    /// Why a stream that was planned, and is open since, must not go on; nil if it may. For rules that have changed.
    ///
    /// - Parameters:
    ///   - path: The way that it took to its peer; nil where it was dialled from here.
    ///   - dialled: What was dialled from here, if that is an address.
    package func refusal(
        of request: StreamRequest,
        over path: PathID?,
        dialled: (address: IPAddress, port: UInt16)? = nil
    ) -> StreamError? {
        let attributes = policy.attributes(of: request)
        var transports: [Transport] = []
        if request.transport != nil || path == nil { transports.append(request.decidedTransport) }
        if let path { transports.append(path.transport) }
        let decisions = transports.lazy.map { [policy] in policy.decide(request, attributes, over: $0) }
        if let decision = decisions.first(where: { !$0.isAllowed }) { return StreamError(.denied, decision.reason) }
        guard path == nil else { return nil }
        let route = route(of: request)
        if let refusal = route.refusal { return refusal }
        return dialled.flatMap { refusal(dialing: $0.address, port: $0.port, for: request, by: route) }
    }

    /// Where it goes, unless it has gone round in a circle: only what goes on to another node can do that.
    private func route(of request: StreamRequest) -> Route {
        let route = router.route(request.destination, from: origin(of: request))
        guard case .mesh = route.action, let loop = request.hops.refusal(at: own) else { return route }
        return Route(action: .refused(StreamError(.loop, loop)), cause: .words("hop guard"), endpoint: route.endpoint)
    }

    /// Who has come in by a local listener has this node's identity, and may be anywhere.
    private func origin(of request: StreamRequest) -> Router.Origin {
        guard request.source == .localUser else { return .peer }
        return router.isOwn(request.sourceIP) ? .local : .remoteUser
    }
}
