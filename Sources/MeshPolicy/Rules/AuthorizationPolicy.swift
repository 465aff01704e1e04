public import Platform

/// Who may reach what: one element of `policy`, in the shape of Istio's AuthorizationPolicy.
public struct AuthorizationPolicy: Hashable, Sendable {
    public enum Action: String, CaseIterable, Hashable, Sendable {
        case allow = "ALLOW"
        case deny = "DENY"
        /// Never decides: a match is only logged.
        case audit = "AUDIT"
    }

    /// Unique; named in every decision.
    public var name: String
    public var action: Action
    /// Decides nothing: what it would have decided is logged.
    public var dryRun: Bool
    /// Any of them.
    public var rules: [Rule]
    public var position: SourcePosition?

    public init(
        name: String,
        action: Action = .allow,
        dryRun: Bool = false,
        rules: [Rule],
        position: SourcePosition? = nil
    ) {
        self.name = name
        self.action = action
        self.dryRun = dryRun
        self.rules = rules
        self.position = position
    }

    /// Matches when one of `from`, one of `to` and all of `when` match; an empty list asks nothing.
    public struct Rule: Hashable, Sendable {
        public var from: [Source]
        public var to: [Operation]
        public var when: [Condition]
        public var position: SourcePosition?

        public init(
            from: [Source] = [],
            to: [Operation] = [],
            when: [Condition] = [],
            position: SourcePosition? = nil
        ) {
            self.from = from
            self.to = to
            self.when = when
            self.position = position
        }
    }

    /// Who: every field that is not empty must match; within a field, one of its elements (of a `not` field: none).
    public struct Source: Hashable, Sendable {
        /// Against the SPIFFE ID without `spiffe://`.
        public var principals: [StringPattern]
        public var notPrincipals: [StringPattern]
        public var namespaces: [StringPattern]
        public var notNamespaces: [StringPattern]
        public var sourceIPs: [CIDR]
        public var notSourceIPs: [CIDR]

        public init(
            principals: [StringPattern] = [],
            notPrincipals: [StringPattern] = [],
            namespaces: [StringPattern] = [],
            notNamespaces: [StringPattern] = [],
            sourceIPs: [CIDR] = [],
            notSourceIPs: [CIDR] = []
        ) {
            self.principals = principals
            self.notPrincipals = notPrincipals
            self.namespaces = namespaces
            self.notNamespaces = notNamespaces
            self.sourceIPs = sourceIPs
            self.notSourceIPs = notSourceIPs
        }
    }

    /// Where to (Istio's `to`): every field that is not empty must match.
    public struct Operation: Hashable, Sendable {
        public var hosts: [HostPattern]
        public var notHosts: [HostPattern]
        public var ports: [ClosedRange<UInt16>]
        public var notPorts: [ClosedRange<UInt16>]

        public init(
            hosts: [HostPattern] = [],
            notHosts: [HostPattern] = [],
            ports: [ClosedRange<UInt16>] = [],
            notPorts: [ClosedRange<UInt16>] = []
        ) {
            self.hosts = hosts
            self.notHosts = notHosts
            self.ports = ports
            self.notPorts = notPorts
        }
    }

    public enum Condition: Hashable, Sendable {
        /// The stream comes over one of these.
        case transport(Set<Transport>)
        /// Until this time, seconds since 1970-01-01T00:00:00Z, itself included.
        case notAfter(Int64)
    }
}
