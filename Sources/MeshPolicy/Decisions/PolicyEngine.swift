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
    /// As Istio has it: where there is an ALLOW policy, who matches none is denied.
    private let allowsByPolicyOnly: Bool

    /// - Parameters:
    ///   - own: The identity of this node; without it (unknown yet) the default policy allows no peer anything.
    ///   - previous: Made of the same policies, for the same node: they are not filed again.
    package init(_ rules: MeshRules, own: SPIFFEID?, withPoliciesOf previous: PolicyEngine? = nil) {
        self.own = own
        (defaultPorts, defaultMatches) = Self.defaults(rules, own: own)
        if let previous {
            (deny, allow, logged) = (previous.deny, previous.allow, previous.logged)
            (policyPorts, allowsByPolicyOnly) = (previous.policyPorts, previous.allowsByPolicyOnly)
            return
        }
        let policies =
            own.map { own in rules.policies.map { $0.naming("\(own.trustDomain)", insteadOf: rules.aliases) } }
            ?? rules.policies
        allowsByPolicyOnly = policies.contains { $0.importedFrom != nil && $0.action == .allow && !$0.dryRun }
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
    }

    private static func defaults(_ rules: MeshRules, own: SPIFFEID?) -> (PortSet, [EndpointMatch]) {
        var ports = PortSet()
        for port in rules.forwards.map(\.port) { ports.insert(port...port) }
        let named =
            rules.endpoints.filter { isNamedHere($0, own: own) }
            + rules.shared.services.filter { isNamedHere($0, own: own) }
        // Who may have this node listen on a port may not reach what listens there for that.
        for endpoint in named where !endpoint.isForListening {
            // The port of an address that keeps the destination's is none.
            let behind = endpoint.keepsPort ? nil : endpoint.address?.port
            for port in [endpoint.match.port, behind].compactMap({ $0 }) { ports.insert(port...port) }
        }
        return (ports, named.filter { $0.match.port == nil || $0.isForListening }.map(\.match))
    }

    /// Whether the default lets peers reach what `endpoint` names.
    ///
    /// Those of the node's own file, all. A directory is for every node: what it says of another node is how that is
    /// reached, and opens no port of this one, nor a way through it. Of a device, which has no ports there, only its
    /// own policy says what may be reached.
    private static func isNamedHere(_ endpoint: Endpoint, own: SPIFFEID?) -> Bool {
        guard endpoint.source != nil else { return true }
        guard !endpoint.keepsPort, case .peer(let peer) = endpoint.way, let own else { return false }
        return peer.identities.contains(own)
    }

    /// Whether the configuration has `port` in an ALLOW policy, a listener's `forwardTo` or an endpoint: only then may
    /// a peer's stream be led to it where no endpoint says how.
    package func names(port: UInt16) -> Bool { policyPorts.contains(port) || defaultPorts.contains(port) }

    package func decide(_ request: StreamRequest) -> PolicyDecision {
        let attributes = attributes(of: request)
        let transport = request.decidedTransport
        return annotated(decide(request, attributes, over: transport), attributes, over: transport)
    }

    func attributes(of request: StreamRequest) -> RequestAttributes { RequestAttributes(request, own: own) }

    /// `decision` with what AUDIT and `dryRun` policies have to say.
    func annotated(
        _ decision: PolicyDecision,
        _ attributes: RequestAttributes,
        over transport: Transport
    ) -> PolicyDecision {
        if logged.isEmpty { return decision }
        var decision = decision
        decision.remarks = remarks(attributes, over: transport)
        return decision
    }

    /// For what is about to be dialled: whether a DENY policy names the address. `nil` if none does.
    ///
    /// Without it, a name, or the `address` of an endpoint, would lead around a policy that forbids what it stands for.
    /// `target` counts with its own port, and with the one that was asked for.
    package func denial(of request: StreamRequest, dialing target: Authority) -> PolicyDecision? {
        guard !deny.isEmpty, let address = target.address else { return nil }
        let transport = request.decidedTransport
        for port in Set([target.port, request.destination.port]) {
            let asked = request.to(Authority(address: address, port: port))
            if let rule = denyingRule(attributes(of: asked), over: transport) {
                return PolicyDecision(request: asked, transport: transport, cause: .policy(rule, .deny))
            }
        }
        return nil
    }

    /// What an address leads to by way of a translator is judged as the address itself: another spelling is no way
    /// around a DENY policy.
    private func denyingRule(_ attributes: RequestAttributes, over transport: Transport) -> RuleReference? {
        guard attributes.hasAliases else {
            if case .rule(let rule) = deny.firstMatch(attributes, over: transport) { return rule }
            return nil
        }
        for spelling in attributes.spellings {
            if case .rule(let rule) = deny.firstMatch(spelling, over: transport) { return rule }
        }
        return nil
    }

    /// What holds for `request` where `transport` carries it, without what AUDIT and `dryRun` policies have to say.
    func decide(
        _ request: StreamRequest,
        _ attributes: RequestAttributes,
        over transport: Transport
    ) -> PolicyDecision {
        if let rule = denyingRule(attributes, over: transport) {
            return PolicyDecision(request: request, transport: transport, cause: .policy(rule, .deny))
        }
        let cause: PolicyDecision.Cause =
            switch allow.firstMatch(attributes, over: transport) {
            case .rule(let rule): .policy(rule, .allow)
            // A rule that names its transports forbids the others, also to those whom the default would let in.
            case .otherTransport(let rule): .otherTransport(rule)
            case .none: defaultCause(request)
            }
        return PolicyDecision(request: request, transport: transport, cause: cause)
    }

    private func defaultCause(_ request: StreamRequest) -> PolicyDecision.Cause {
        switch request.source {
        case .localUser: return .localUser
        case .unauthenticated where allowsByPolicyOnly, .peer where allowsByPolicyOnly: return .noPolicyAllows
        case .unauthenticated: return .noIdentity
        case .peer(let peer):
            guard let own else { return .ownIdentityUnknown }
            guard peer.trustDomain == own.trustDomain else { return .otherTrustDomain(own: own) }
            guard let namespace = peer.namespace, namespace == own.namespace else {
                return .otherNamespace(own: own)
            }
            let destination = request.destination
            let isNamed =
                defaultPorts.contains(destination.port) || defaultMatches.contains { $0.matches(destination) }
            return isNamed ? .sameNamespace : .portNotNamed
        }
    }

    private func remarks(_ attributes: RequestAttributes, over transport: Transport) -> [PolicyDecision.Remark] {
        var rules = logged.allMatches(attributes, over: transport)
        if attributes.hasAliases {
            var seen: Set<RuleReference> = []
            rules = attributes.spellings.flatMap { logged.allMatches($0, over: transport) }
            rules = rules.filter { seen.insert($0).inserted }
        }
        return rules.map { rule in
            switch rule.policy.action {
            case .audit: PolicyDecision.Remark(isAudit: true, text: "audited by \(rule)")
            case .allow: PolicyDecision.Remark(isAudit: false, text: "dry run: would be allowed by \(rule)")
            case .deny: PolicyDecision.Remark(isAudit: false, text: "dry run: would be denied by \(rule)")
            }
        }
    }
}
