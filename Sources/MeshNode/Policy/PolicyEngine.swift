public import MeshIdentity
public import MeshPolicy
public import Platform
public import Streams

/// Decides who may reach what (`docs/policy.md`): DENY policies first, then ALLOW policies, then the default.
///
/// The default allows a peer of the node's own trust domain and namespace to reach what the configuration's listeners and
/// endpoints name, and nothing else. Immutable: a reload makes a new engine, and live streams are decided again with it.
/// Decisions take microseconds whatever the number of rules: see `RuleIndex`.
public struct PolicyEngine: Sendable {
    /// A stream that somebody wants to open.
    public struct Request: Hashable, Sendable {
        public enum Source: Hashable, Sendable {
            /// A peer whose certificate was verified.
            case peer(SPIFFEID)
            /// A user of this machine, through a local listener: has the node's own identity. Allowed unless a policy
            /// says otherwise; where it may go is a matter of routing.
            case localUser
            /// Somebody without a mesh identity.
            case unauthenticated
        }

        public var source: Source
        /// The peer's address, loopback for a local user.
        public var sourceIP: IPAddress
        public var transport: Transport
        public var destination: Authority
        /// Seconds since 1970-01-01T00:00:00Z.
        public var now: Int64

        public init(source: Source, sourceIP: IPAddress, transport: Transport, destination: Authority, now: Int64) {
            self.source = source
            self.sourceIP = sourceIP
            self.transport = transport
            self.destination = destination
            self.now = now
        }

        /// At the present time of the wall clock.
        public init(source: Source, sourceIP: IPAddress, transport: Transport, destination: Authority) {
            self.init(
                source: source,
                sourceIP: sourceIP,
                transport: transport,
                destination: destination,
                now: currentTime()
            )
        }
    }

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
    public init(configuration: NodeConfiguration, own: SPIFFEID?) {
        self.own = own
        let policies = configuration.policy ?? []
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
        for port in configuration.listeners.compactMap({ $0.forwardTo?.port }) { defaultPorts.insert(port...port) }
        for endpoint in configuration.endpoints {
            for port in [endpoint.match.port, endpoint.address?.port].compactMap({ $0 }) {
                defaultPorts.insert(port...port)
            }
        }
        self.defaultPorts = defaultPorts
        defaultMatches = configuration.endpoints.map(\.match).filter { $0.port == nil }
    }

    /// Whether the configuration has `port` in an ALLOW policy, a listener's `forwardTo` or an endpoint: only then may a
    /// peer's stream be led to it where no endpoint says how.
    public func names(port: UInt16) -> Bool { policyPorts.contains(port) || defaultPorts.contains(port) }

    public func decide(_ request: Request) -> PolicyDecision {
        let attributes = RequestAttributes(request, own: own)
        var decision = decide(request, attributes)
        if !logged.isEmpty { decision.notes = notes(attributes) }
        return decision
    }

    /// Of `transports`, those over which `request` is allowed, in the same order: a path that policy forbids is no fallback.
    public func permitted(_ transports: [Transport], for request: Request) -> [Transport] {
        transports.filter { transport in
            var request = request
            request.transport = transport
            return decide(request, RequestAttributes(request, own: own)).isAllowed
        }
    }

    /// For a destination given by name, once it is resolved: whether a DENY policy names the address. `nil` if none does.
    ///
    /// Without it, a name would lead around a policy that forbids the address it stands for. Dial `address` itself
    /// afterwards: resolving again could answer differently.
    public func denial(of request: Request, resolvedTo address: IPAddress) -> PolicyDecision? {
        var resolved = request
        resolved.destination = Authority(address: address, port: request.destination.port)
        guard case .rule(let rule) = deny.firstMatch(RequestAttributes(resolved, own: own)) else { return nil }
        return PolicyDecision(request: resolved, cause: .policy(rule, .deny))
    }

    private func decide(_ request: Request, _ attributes: RequestAttributes) -> PolicyDecision {
        if case .rule(let rule) = deny.firstMatch(attributes) {
            return PolicyDecision(request: request, cause: .policy(rule, .deny))
        }
        switch allow.firstMatch(attributes) {
        case .rule(let rule): return PolicyDecision(request: request, cause: .policy(rule, .allow))
        // A rule that names its transports forbids the others, also to those whom the default would let in.
        case .otherTransport(let rule): return PolicyDecision(request: request, cause: .otherTransport(rule))
        case .none: return PolicyDecision(request: request, cause: defaultCause(request))
        }
    }

    private func defaultCause(_ request: Request) -> PolicyDecision.Cause {
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
        logged.allMatches(attributes).map { rule in
            switch rule.policy.action {
            case .audit: "audited by \(rule)"
            case .allow: "dry run: would be allowed by \(rule)"
            case .deny: "dry run: would be denied by \(rule)"
            }
        }
    }
}

/// A set of TCP ports.
struct PortSet: Hashable, Sendable {
    private var words = [UInt64](repeating: 0, count: 1024)

    mutating func insert(_ range: ClosedRange<UInt16>) {
        let (low, high) = (Int(range.lowerBound), Int(range.upperBound))
        for word in low >> 6...high >> 6 {
            let first: UInt64 = word == low >> 6 ? .max << UInt64(low & 63) : .max
            let last: UInt64 = word == high >> 6 ? .max >> UInt64(63 - high & 63) : .max
            words[word] |= first & last
        }
    }

    func contains(_ port: UInt16) -> Bool { words[Int(port >> 6)] >> UInt64(port & 63) & 1 == 1 }
}
