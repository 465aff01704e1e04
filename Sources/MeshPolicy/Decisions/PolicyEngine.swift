package import MeshIdentity
package import Platform

/// Decides who may reach what (`docs/policy.md`): DENY policies first, then ALLOW policies, then the default.
///
/// The default allows a peer of the node's own trust domain and namespace to reach what the configuration's listeners
/// and endpoints name, and nothing else. Immutable: a reload makes a new engine, and live streams are decided again
/// with it. Decisions take microseconds whatever the number of rules: see `RuleIndex`.
package struct PolicyEngine: Sendable {
    private let own: SPIFFEID?
    private let deny: RuleIndex
    private let allow: RuleIndex
    /// AUDIT and `dryRun` policies: they decide nothing.
    private let logged: RuleIndex
    /// What the default policy covers.
    private let defaultPorts: PortSet
    private let defaultMatches: [EndpointMatch]
    private let policyPorts: PortSet

    /// `own` is the identity of this node; without it (unknown yet) the default policy allows no peer anything.
    package init(_ rules: MeshRules, own: SPIFFEID?) {
        self.own = own
        let policies = rules.policies
        deny = RuleIndex(policies.filter { $0.action == .deny && !$0.dryRun })
        allow = RuleIndex(policies.filter { $0.action == .allow && !$0.dryRun })
        logged = RuleIndex(policies.filter { $0.action == .audit || $0.dryRun })

        var policyPorts = PortSet()
        for policy in policies where policy.action == .allow && !policy.dryRun {
            for operation in policy.rules.lazy.flatMap(\.to) {
                for range in operation.ports { policyPorts.insert(range) }
            }
        }
        self.policyPorts = policyPorts

        var defaultPorts = PortSet()
        for port in rules.forwards.map(\.port) { defaultPorts.insert(port...port) }
        for endpoint in rules.endpoints {
            for port in [endpoint.match.port, endpoint.address?.port].compactMap({ $0 }) {
                defaultPorts.insert(port...port)
            }
        }
        self.defaultPorts = defaultPorts
        defaultMatches = rules.endpoints.map(\.match).filter { $0.port == nil }
    }

    /// Whether the configuration has `port` in an ALLOW policy, a listener's `forwardTo` or an endpoint: only then may
    /// a peer's stream be led to it where no endpoint says how.
    package func names(port: UInt16) -> Bool { policyPorts.contains(port) || defaultPorts.contains(port) }

    package func decide(_ request: StreamRequest) -> PolicyDecision {
        let attributes = RequestAttributes(request, own: own)
        var decision = decide(request, attributes)
        if !logged.isEmpty { decision.notes = notes(attributes) }
        return decision
    }

    /// What ``decide(_:)`` says, without what AUDIT and `dryRun` policies have to say.
    func decideWithoutNotes(_ request: StreamRequest) -> PolicyDecision {
        decide(request, RequestAttributes(request, own: own))
    }

    /// For what is about to be dialled: whether a DENY policy names the address. `nil` if none does.
    ///
    /// Without it, a name, or the `address` of an endpoint, would lead around a policy that forbids what it stands for.
    /// `target` counts with its own port, and with the one that was asked for.
    package func denial(of request: StreamRequest, dialing target: Authority) -> PolicyDecision? {
        guard !deny.isEmpty, let address = target.address else { return nil }
        var asked = request
        for port in Set([target.port, request.destination.port]) {
            asked.destination = Authority(address: address, port: port)
            if let rule = denyingRule(RequestAttributes(asked, own: own)) {
                return PolicyDecision(request: asked, cause: .policy(rule, .deny))
            }
        }
        return nil
    }

    /// What an address leads to by way of a translator is judged as the address itself: another spelling is no way
    /// around a DENY policy.
    private func denyingRule(_ attributes: RequestAttributes) -> RuleReference? {
        guard attributes.hasAliases else {
            if case .rule(let rule) = deny.firstMatch(attributes) { return rule }
            return nil
        }
        for spelling in attributes.spellings {
            if case .rule(let rule) = deny.firstMatch(spelling) { return rule }
        }
        return nil
    }

    private func decide(_ request: StreamRequest, _ attributes: RequestAttributes) -> PolicyDecision {
        if let rule = denyingRule(attributes) { return PolicyDecision(request: request, cause: .policy(rule, .deny)) }
        switch allow.firstMatch(attributes) {
        case .rule(let rule): return PolicyDecision(request: request, cause: .policy(rule, .allow))
        // A rule that names its transports forbids the others, also to those whom the default would let in.
        case .otherTransport(let rule): return PolicyDecision(request: request, cause: .otherTransport(rule))
        case .none: return PolicyDecision(request: request, cause: defaultCause(request))
        }
    }

    private func defaultCause(_ request: StreamRequest) -> PolicyDecision.Cause {
        switch request.source {
        case .localUser: return .localUser
        case .unauthenticated: return .noIdentity
        case .peer(let peer):
            guard let own else { return .ownIdentityUnknown }
            guard peer.trustDomain == own.trustDomain else { return .otherTrustDomain(peer: peer, own: own) }
            guard let namespace = peer.namespace, namespace == own.namespace else {
                return .otherNamespace(peer: peer, own: own)
            }
            let destination = request.destination
            let isNamed =
                defaultPorts.contains(destination.port) || defaultMatches.contains { $0.matches(destination) }
            return isNamed ? .sameNamespace(peer) : .portNotNamed
        }
    }

    private func notes(_ attributes: RequestAttributes) -> [String] {
        var rules = logged.allMatches(attributes)
        if attributes.hasAliases {
            var seen: Set<RuleReference> = []
            rules = attributes.spellings.flatMap(logged.allMatches).filter { seen.insert($0).inserted }
        }
        return rules.map { rule in
            switch rule.policy.action {
            case .audit: "audited by \(rule)"
            case .allow: "dry run: would be allowed by \(rule)"
            case .deny: "dry run: would be denied by \(rule)"
            }
        }
    }
}
