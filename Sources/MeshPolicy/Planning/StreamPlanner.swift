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
    package init(
        _ rules: MeshRules,
        own: SPIFFEID?,
        ownAddresses: Set<IPAddress>,
        ownNames: Set<String> = ["localhost"]
    ) {
        let policy = PolicyEngine(rules, own: own)
        self.policy = policy
        self.own = own
        source = rules.source
        router = Router(rules, policy: policy, ownAddresses: ownAddresses, ownNames: ownNames)
    }

    /// What is done with `request`.
    package func plan(_ request: StreamRequest) -> StreamPlan {
        let route = router.route(request.destination, from: request.origin)
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

    /// Whether `address`, which the name of a plan's ``StreamPlan/Outcome/dial(_:tls:)`` resolved to, must not be
    /// dialled, and why.
    ///
    /// A name can be made to resolve to anything. What routing guards for addresses, and what DENY policies say of
    /// them, holds for what a name stands for, too. Dial the very address that was asked about: resolving again could
    /// answer differently.
    package func refusal(dialing address: IPAddress, port: UInt16, for plan: StreamPlan) -> StreamError? {
        let request = plan.request
        if let refusal = router.refusal(dialing: address, port: port, from: request.origin) { return refusal }
        guard case .dial(let target, _) = plan.outcome, target.address == nil else { return nil }
        return policy.denial(of: request, resolvedTo: address).map { StreamError(.denied, $0.reason) }
    }

    /// Why a stream that was planned, and has gone `path` since, must not go on; nil if it may. For rules that have
    /// changed.
    ///
    /// - Parameter path: The way to its peer; nil where it was dialled from here.
    package func refusal(of request: StreamRequest, over path: PathID?) -> StreamError? {
        let attributes = policy.attributes(of: request)
        var transports: [Transport] = []
        if request.transport != nil || path == nil { transports.append(request.decidedTransport) }
        if let path { transports.append(path.transport) }
        return transports.lazy.map { self.policy.decide(request, attributes, over: $0) }.first { !$0.isAllowed }.map {
            StreamError(.denied, $0.reason)
        }
    }
}

extension StreamRequest {
    fileprivate var origin: Router.Origin { source == .localUser ? .local : .peer }
}
