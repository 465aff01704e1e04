import MeshIdentity
package import Platform

/// A rule of the configuration, for messages.
package struct RuleReference: Hashable, Sendable, CustomStringConvertible {
    package var policy: AuthorizationPolicy
    /// Position in the policy's `rules`, from 0.
    package var index: Int

    /// `policy 'NAME', rule N (ACTION)`, counted from 1.
    package var description: String { "policy '\(policy.name)', rule \(index + 1) (\(policy.action.rawValue))" }

    /// Where the rule stands in the file.
    package var position: SourcePosition? { policy.rules[index].position }
}

/// What ``PolicyEngine`` decided about a stream, and why.
package struct PolicyDecision: Hashable, Sendable, CustomStringConvertible {
    enum Cause: Hashable, Sendable {
        case policy(RuleReference, AuthorizationPolicy.Action)
        case otherTransport(RuleReference)
        case localUser
        case sameNamespace(SPIFFEID)
        case noIdentity
        case ownIdentityUnknown
        case otherTrustDomain(peer: SPIFFEID, own: SPIFFEID)
        case otherNamespace(peer: SPIFFEID, own: SPIFFEID)
        case portNotNamed
    }

    private let request: StreamRequest
    private let cause: Cause
    /// What AUDIT and `dryRun` policies have to say, one line for the log each.
    package var notes: [String] = []

    init(request: StreamRequest, cause: Cause) {
        self.request = request
        self.cause = cause
    }

    package var isAllowed: Bool {
        switch cause {
        case .policy(_, let action): action == .allow
        case .localUser, .sameNamespace: true
        case .otherTransport, .noIdentity, .ownIdentityUnknown, .otherTrustDomain, .otherNamespace, .portNotNamed: false
        }
    }

    /// The rule that decided; `nil` when the default did.
    package var rule: RuleReference? {
        switch cause {
        case .policy(let rule, _), .otherTransport(let rule): rule
        default: nil
        }
    }

    /// One line for the log and the operator: who decided, why, and how to change it. It names rules and identities of
    /// this side; a peer is told no more than that policy refused.
    package var reason: String {
        let destination = request.destination
        switch cause {
        case .policy(let rule, let action):
            return "\(action == .allow ? "allowed" : "denied") by \(rule)"
        case .otherTransport(let rule):
            let transports = rule.policy.rules[rule.index].when.flatMap { condition in
                if case .transport(let transports) = condition {
                    transports.map(\.rawValue).sorted()
                } else {
                    [String]()
                }
            }
            return
                "denied: \(rule) allows it over \(transports.joined(separator: ", ")) only, not over \(request.decidedTransport)"
        case .localUser:
            return "allowed by default: local user"
        case .sameNamespace(let peer):
            return
                "allowed by default: \(peer) is of this node's trust domain and namespace, and the configuration names "
                + "port \(destination.port)"
        case .noIdentity:
            return "denied by default: the peer has no mesh identity, and no policy allows it"
        case .ownIdentityUnknown:
            return "denied by default: no policy allows it, and this node's own identity is not known"
        case .otherTrustDomain(let peer, let own):
            return
                "denied by default: \(peer) is of trust domain \(peer.trustDomain), this node of \(own.trustDomain), and "
                + "no policy allows it"
        case .otherNamespace(let peer, let own):
            return
                "denied by default: \(peer) is not of this node's namespace \(own.namespace ?? "(none)"), and no policy "
                + "allows it"
        case .portNotNamed:
            return "denied by default: no policy allows it, and no listener's 'forwardTo' and no endpoint names port "
                + "\(destination.port): add an endpoint, or an ALLOW policy with 'ports: [\(destination.port)]'"
        }
    }

    package var description: String { reason }
}
