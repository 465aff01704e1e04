package import Platform

/// Who may reach what: one element of `policy`, in the shape of Istio's AuthorizationPolicy.
package struct AuthorizationPolicy: Hashable, Sendable {
    package enum Action: String, CaseIterable, Hashable, Sendable {
        case allow = "ALLOW"
        case deny = "DENY"
        /// Never decides: a match is only logged.
        case audit = "AUDIT"
    }

    /// Unique; named in every decision.
    package var name: String
    package var action: Action
    /// Decides nothing: what it would have decided is logged.
    package var dryRun: Bool
    /// Any of them.
    package var rules: [Rule]
    package var position: SourcePosition?
    /// The file of Istio's that it comes from. Such a policy is about who comes to this node, and not about its local
    /// users; `cluster.local` is the node's own trust domain; and one that allows leaves nothing to the default.
    package var importedFrom: String?
    /// Who has it, where that is no file: the mesh's directory, whose policies have names of their own.
    package var holder: String? { name.hasPrefix("directory/") ? "directory" : nil }

    package init(
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
    package struct Rule: Hashable, Sendable {
        package var from: [Source]
        package var to: [Operation]
        package var when: [Condition]
        package var position: SourcePosition?

        package init(
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
    package struct Source: Hashable, Sendable {
        /// Against the SPIFFE ID without `spiffe://`.
        package var principals: [StringPattern]
        package var notPrincipals: [StringPattern]
        package var namespaces: [StringPattern]
        package var notNamespaces: [StringPattern]
        package var sourceIPs: [CIDR]
        package var notSourceIPs: [CIDR]
        /// Against `ISSUER/SUBJECT` of a verified token. Where nobody verifies tokens it is not known, as
        /// ``Operation/methods`` where nobody reads HTTP.
        package var requestPrincipals: [StringPattern]
        package var notRequestPrincipals: [StringPattern]

        package init(
            principals: [StringPattern] = [],
            notPrincipals: [StringPattern] = [],
            namespaces: [StringPattern] = [],
            notNamespaces: [StringPattern] = [],
            sourceIPs: [CIDR] = [],
            notSourceIPs: [CIDR] = [],
            requestPrincipals: [StringPattern] = [],
            notRequestPrincipals: [StringPattern] = []
        ) {
            self.principals = principals
            self.notPrincipals = notPrincipals
            self.namespaces = namespaces
            self.notNamespaces = notNamespaces
            self.sourceIPs = sourceIPs
            self.notSourceIPs = notSourceIPs
            self.requestPrincipals = requestPrincipals
            self.notRequestPrincipals = notRequestPrincipals
        }
    }

    /// Where to (Istio's `to`): every field that is not empty must match.
    package struct Operation: Hashable, Sendable {
        package var hosts: [HostPattern]
        package var notHosts: [HostPattern]
        package var ports: [ClosedRange<UInt16>]
        package var notPorts: [ClosedRange<UInt16>]
        /// Of an HTTP request. What no front has read is not known: an ALLOW rule that asks for it does not match then,
        /// and a DENY rule matches as if it did not ask.
        package var methods: [StringPattern]
        package var notMethods: [StringPattern]
        package var paths: [StringPattern]
        package var notPaths: [StringPattern]

        package init(
            hosts: [HostPattern] = [],
            notHosts: [HostPattern] = [],
            ports: [ClosedRange<UInt16>] = [],
            notPorts: [ClosedRange<UInt16>] = [],
            methods: [StringPattern] = [],
            notMethods: [StringPattern] = [],
            paths: [StringPattern] = [],
            notPaths: [StringPattern] = []
        ) {
            self.hosts = hosts
            self.notHosts = notHosts
            self.ports = ports
            self.notPorts = notPorts
            self.methods = methods
            self.notMethods = notMethods
            self.paths = paths
            self.notPaths = notPaths
        }
    }

    package enum Condition: Hashable, Sendable {
        /// The stream comes over one of these.
        case transport(Set<Transport>)
        /// Until this time, seconds since 1970-01-01T00:00:00Z, itself included.
        case notAfter(Int64)
        /// As an element of `from`, and of `to`, that must match as well.
        case source(Source)
        case operation(Operation)
    }
}

extension AuthorizationPolicy.Rule {
    /// Whether it asks for something that only a request of HTTP has: a method or a path.
    package var readsHTTP: Bool {
        to.contains(where: \.readsHTTP)
            || when.contains { if case .operation(let operation) = $0 { operation.readsHTTP } else { false } }
    }

    /// Whether it asks whose token a request has.
    package var readsToken: Bool {
        from.contains(where: \.readsToken)
            || when.contains { if case .source(let source) = $0 { source.readsToken } else { false } }
    }
}

extension AuthorizationPolicy.Operation {
    var readsHTTP: Bool { !methods.isEmpty || !notMethods.isEmpty || !paths.isEmpty || !notPaths.isEmpty }
}

extension AuthorizationPolicy.Source {
    var readsToken: Bool { !requestPrincipals.isEmpty || !notRequestPrincipals.isEmpty }
}

extension AuthorizationPolicy {
    /// With the node's own trust domain where rules have an earlier name of it, or where Istio's say `cluster.local`,
    /// which stands for whichever it is.
    func naming(_ domain: String, insteadOf aliases: [String]) -> AuthorizationPolicy {
        let aliases = importedFrom == nil ? aliases : aliases + ["cluster.local"]
        guard !aliases.isEmpty else { return self }
        var policy = self
        policy.rules = rules.map { rule in
            var rule = rule
            rule.from = rule.from.map { $0.naming(domain, insteadOf: aliases) }
            rule.when = rule.when.map { condition in
                if case .source(let source) = condition {
                    .source(source.naming(domain, insteadOf: aliases))
                } else {
                    condition
                }
            }
            return rule
        }
        return policy
    }
}

extension AuthorizationPolicy.Source {
    fileprivate func naming(_ domain: String, insteadOf aliases: [String]) -> AuthorizationPolicy.Source {
        func own(_ text: String) -> String {
            guard let alias = aliases.first(where: { text.hasPrefix("\($0)/") }) else { return text }
            return domain + text.dropFirst(alias.count)
        }
        func own(_ pattern: StringPattern) -> StringPattern {
            switch pattern {
            case .exact(let text): .exact(own(text))
            case .prefix(let text): .prefix(own(text))
            case .any, .suffix: pattern
            }
        }
        var source = self
        source.principals = principals.map(own)
        source.notPrincipals = notPrincipals.map(own)
        return source
    }
}
