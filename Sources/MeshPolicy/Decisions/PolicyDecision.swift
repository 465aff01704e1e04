import MeshIdentity
package import Platform

/// A rule of the configuration, for messages. An object, made once: decisions hand it around.
package final class RuleReference: Hashable, Sendable, CustomStringConvertible {
    package let policy: AuthorizationPolicy
    /// Position in the policy's `rules`, from 0.
    package let index: Int

    init(policy: AuthorizationPolicy, index: Int) {
        self.policy = policy
        self.index = index
    }

    package static func == (left: RuleReference, right: RuleReference) -> Bool {
        left === right || left.index == right.index && left.policy == right.policy
    }

    package func hash(into hasher: inout Hasher) {
        hasher.combine(index)
        hasher.combine(policy.name)
    }

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
        case sameNamespace
        case noIdentity
        case noPolicyAllows
        case ownIdentityUnknown
        indirect case otherTrustDomain(own: SPIFFEID)
        indirect case otherNamespace(own: SPIFFEID)
        case portNotNamed
    }

    /// What a policy that decides nothing has to say.
    package struct Remark: Hashable, Sendable {
        /// Of an AUDIT policy, which logs each match; otherwise of one with `dryRun`.
        package let isAudit: Bool
        package let text: String
    }

    private let request: StreamRequest
    /// What it was decided for: what has carried the request here, or the way it would go on.
    private let transport: Transport
    private let cause: Cause
    /// What AUDIT and `dryRun` policies have to say.
    package var remarks: [Remark] = []
    /// The same, one line for the log each.
    package var notes: [String] { remarks.map(\.text) }

    init(request: StreamRequest, transport: Transport, cause: Cause) {
        self.request = request
        self.transport = transport
        self.cause = cause
    }

    package var isAllowed: Bool {
        switch cause {
        case .policy(_, let action): action == .allow
        case .localUser, .sameNamespace: true
        case .otherTransport, .noIdentity, .noPolicyAllows, .ownIdentityUnknown, .otherTrustDomain, .otherNamespace,
            .portNotNamed:
            false
        }
    }

    /// The rule that decided; `nil` when the default did.
    package var rule: RuleReference? {
        switch cause {
        case .policy(let rule, _), .otherTransport(let rule): rule
        default: nil
        }
    }

    /// What carried the request, where that is why it is refused: over another transport the same rules may allow it. A
    /// peer may know as much.
    package var forbiddenTransport: Transport? {
        switch cause {
        case .otherTransport: return transport
        case .policy(let rule, .deny):
            let isAboutTransport = rule.policy.rules[rule.index].when.contains { condition in
                if case .transport = condition { true } else { false }
            }
            return isAboutTransport ? transport : nil
        default: return nil
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
                "denied: \(rule) allows it over \(transports.joined(separator: ", ")) only, not over \(transport)"
        case .localUser:
            return "allowed by default: local user"
        case .sameNamespace:
            return
                "allowed by default: \(request.sourceDescription) is of this node's trust domain and namespace, and the configuration names "
                + "port \(destination.port)"
        case .noIdentity:
            return "denied by default: the peer has no mesh identity, and no policy allows it"
        case .noPolicyAllows:
            return "denied by default: there are ALLOW policies of Istio's, and none allows it"
        case .ownIdentityUnknown:
            return "denied by default: no policy allows it, and this node's own identity is not known"
        case .otherTrustDomain(let own):
            let domain = request.peer.map { "of trust domain \($0.trustDomain)" } ?? "of another trust domain"
            return
                "denied by default: \(request.sourceDescription) is \(domain), this node of \(own.trustDomain), and "
                + "no policy allows it"
        case .otherNamespace(let own):
            return
                "denied by default: \(request.sourceDescription) is not of this node's namespace \(own.namespace ?? "(none)"), and no policy "
                + "allows it"
        case .portNotNamed:
            return "denied by default: no policy allows it, and no listener's 'forwardTo' and no endpoint names port "
                + "\(destination.port): add an endpoint, or an ALLOW policy with 'ports: [\(destination.port)]'"
        }
    }

    package var description: String { reason }
}
