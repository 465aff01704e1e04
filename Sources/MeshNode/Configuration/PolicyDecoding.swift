import MeshPolicy
import Platform
import Streams
import YAML

/// Decodes the key `policy`. Nothing that is empty or unknown is skipped: a rule that lost a field would allow more, or
/// deny less, than its writer meant.
struct PolicyDecoder {
    let diagnostics: Diagnostics
    /// Files that are named, from the directory of this one.
    var resolve: (String) -> String = { $0 }

    /// A list of policies, or `{istio: FILE}`.
    func policies(_ node: YAMLNode) -> [AuthorizationPolicy] {
        let policies: [AuthorizationPolicy]
        if case .mapping(let entries) = node.content, entries.contains(where: { $0.key == "istio" }) {
            policies = imported(node)
        } else {
            policies = node.list("'policy'", diagnostics, policy) ?? []
        }
        var lines: [String: SourcePosition?] = [:]
        for policy in policies {
            if let first = lines.updateValue(policy.position, forKey: policy.name) {
                let place = first.map { ", also at line \($0.line)" } ?? ""
                diagnostics.report(
                    "policy '\(policy.name)' is there twice\(place): names must be unique",
                    at: policy.position
                )
            }
        }
        return policies
    }

    private func imported(_ node: YAMLNode) -> [AuthorizationPolicy] {
        guard let mapping = MappingDecoder(node, what: "'policy'", keys: ["istio"], diagnostics),
            let value = mapping["istio"]
        else { return [] }
        let files: [String]? =
            if case .sequence = value.content {
                value.list("'istio'", diagnostics) { $0.string("'istio'", diagnostics) }
            } else {
                mapping.string("istio").map { [$0] }
            }
        return (files ?? []).flatMap { file -> [AuthorizationPolicy] in
            do throws(ConfigurationError) {
                return try IstioPolicyDecoder.policies(in: resolve(file))
            } catch {
                diagnostics.add(error)
                return []
            }
        }
    }

    private func policy(_ node: YAMLNode) -> AuthorizationPolicy? {
        let keys = ["name", "action", "dryRun", "rules"]
        guard
            let mapping = MappingDecoder(
                node,
                what: "a policy",
                keys: keys,
                required: ["name", "action", "rules"],
                diagnostics
            )
        else { return nil }
        let name = mapping.string("name")
        let action = mapping.choice("action", of: AuthorizationPolicy.Action.self)
        let dryRun = mapping.bool("dryRun") ?? false
        let rules = mapping["rules"]?.list("'rules'", diagnostics, rule)
        guard let name, let action, let rules else { return nil }
        return AuthorizationPolicy(name: name, action: action, dryRun: dryRun, rules: rules, position: node.position)
    }

    private func rule(_ node: YAMLNode) -> AuthorizationPolicy.Rule? {
        guard let mapping = MappingDecoder(node, what: "a rule", keys: ["from", "to", "when"], diagnostics) else {
            return nil
        }
        return AuthorizationPolicy.Rule(
            from: mapping["from"]?.list("'from'", diagnostics, source) ?? [],
            to: mapping["to"]?.list("'to'", diagnostics, operation) ?? [],
            when: mapping["when"]?.list("'when'", diagnostics, condition) ?? [],
            position: node.position
        )
    }

    private func source(_ node: YAMLNode) -> AuthorizationPolicy.Source? {
        let keys = [
            "principals", "notPrincipals", "namespaces", "notNamespaces", "sourceIPs", "notSourceIPs",
            "requestPrincipals", "notRequestPrincipals",
        ]
        guard let mapping = element(node, what: "a source of 'from'", keys: keys) else { return nil }
        return AuthorizationPolicy.Source(
            principals: values(mapping, "principals", Self.principal),
            notPrincipals: values(mapping, "notPrincipals", Self.principal),
            namespaces: values(mapping, "namespaces") { try StringPattern(parsing: $0) },
            notNamespaces: values(mapping, "notNamespaces") { try StringPattern(parsing: $0) },
            sourceIPs: values(mapping, "sourceIPs") { try CIDR(parsing: $0) },
            notSourceIPs: values(mapping, "notSourceIPs") { try CIDR(parsing: $0) },
            requestPrincipals: values(mapping, "requestPrincipals") { try StringPattern(parsing: $0) },
            notRequestPrincipals: values(mapping, "notRequestPrincipals") { try StringPattern(parsing: $0) }
        )
    }

    private func operation(_ node: YAMLNode) -> AuthorizationPolicy.Operation? {
        let keys = ["hosts", "notHosts", "ports", "notPorts", "methods", "notMethods", "paths", "notPaths"]
        guard let mapping = element(node, what: "an element of 'to'", keys: keys) else { return nil }
        return AuthorizationPolicy.Operation(
            hosts: values(mapping, "hosts") { try HostPattern(parsing: $0) },
            notHosts: values(mapping, "notHosts") { try HostPattern(parsing: $0) },
            ports: values(mapping, "ports", Self.ports),
            notPorts: values(mapping, "notPorts", Self.ports),
            methods: values(mapping, "methods", Self.method),
            notMethods: values(mapping, "notMethods", Self.method),
            paths: values(mapping, "paths", Self.path),
            notPaths: values(mapping, "notPaths", Self.path)
        )
    }

    private func condition(_ node: YAMLNode) -> AuthorizationPolicy.Condition? {
        guard let mapping = element(node, what: "a condition of 'when'", keys: ["transport", "notAfter"]) else {
            return nil
        }
        if mapping["transport"] != nil, mapping["notAfter"] != nil {
            diagnostics.report(
                "a condition of 'when' has one key: write [{transport: …}, {notAfter: …}]; all of them must hold",
                at: node.position
            )
            return nil
        }
        if let list = mapping["transport"] {
            return list.list("'transport'", diagnostics) {
                $0.choice(of: Transport.self, "a transport", diagnostics)
            }.map { .transport(Set($0)) }
        }
        return mapping.value("notAfter") { .notAfter(try parseTime($0)) }
    }

    /// A mapping with at least one field that says something.
    func element(_ node: YAMLNode, what: String, keys: [String]) -> MappingDecoder? {
        guard let mapping = MappingDecoder(node, what: what, keys: keys, diagnostics) else { return nil }
        let says = keys.contains { key in
            guard let value = mapping[key] else { return false }
            return !Self.isEmptyExclusion(key, value)
        }
        if !says, case .mapping(let entries) = node.content, entries.allSatisfy({ keys.contains($0.key) }) {
            diagnostics.report("\(what) is empty: fill it, or remove it to match everything", at: node.position)
            return nil
        }
        return mapping
    }

    /// `notX: []` excludes nothing, which is what it says; `X: []` could mean all or nothing, and is refused.
    private static func isEmptyExclusion(_ key: String, _ value: YAMLNode) -> Bool {
        key.hasPrefix("not") && value.content == .sequence([])
    }

    func values<Value>(
        _ mapping: MappingDecoder,
        _ key: String,
        _ parse: (String) throws -> Value
    ) -> [Value] {
        guard let node = mapping[key], !Self.isEmptyExclusion(key, node) else { return [] }
        return node.list("'\(key)'", diagnostics) { $0.parsed("'\(key)'", diagnostics, parse) } ?? []
    }

    static func principal(_ text: String) throws -> StringPattern {
        guard !text.hasPrefix("spiffe://") else {
            let bare = text.dropFirst("spiffe://".count)
            throw StreamError(.badRequest, "principals are written without spiffe://, as '\(bare)'")
        }
        return try StringPattern(parsing: text)
    }

    static func method(_ text: String) throws -> StringPattern {
        let isToken = text.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "0")...UInt8(ascii: "9"),
                UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "*"):
                true
            default: false
            }
        }
        guard isToken else {
            throw StreamError(.badRequest, "'\(text)' is not a method, which is written in capitals, like GET")
        }
        return try StringPattern(parsing: text)
    }

    /// A pattern that a normalized path can match.
    static func path(_ text: String) throws -> StringPattern {
        let pattern = try StringPattern(parsing: text)
        guard !text.contains("{*") else {
            throw StreamError(.badRequest, "'\(text)': templates of paths are not supported, only one '*' at an end")
        }
        guard !text.contains("?"), !text.contains("#") else {
            throw StreamError(.badRequest, "'\(text)': a path is compared without its query")
        }
        guard text.hasPrefix("/") || text.hasPrefix("*") else {
            throw StreamError(.badRequest, "'\(text)': a path begins with '/', or with '*'")
        }
        let sample = text.replacing("*", with: "")
        let isNormal = sample.isEmpty || RequestDetails.path(of: sample.hasPrefix("/") ? sample : "/x" + sample) != nil
        guard isNormal, !text.contains("%") else {
            throw StreamError(
                .badRequest,
                "'\(text)': paths are compared decoded, and without '//', '/../' and the like: write it so"
            )
        }
        return pattern
    }

    /// `22` or `"8000-8010"`.
    static func ports(_ text: String) throws -> ClosedRange<UInt16> {
        let parts = text.split(separator: "-", omittingEmptySubsequences: false).map { part in
            UInt16(part).flatMap { $0 > 0 && "\($0)" == part ? $0 : nil }
        }
        if parts.count == 1, let port = parts[0] { return port...port }
        if parts.count == 2, let low = parts[0], let high = parts[1], low <= high { return low...high }
        throw StreamError(.badRequest, "'\(text)' is neither a port from 1 to 65535 nor a range like \"8000-8010\"")
    }
}
