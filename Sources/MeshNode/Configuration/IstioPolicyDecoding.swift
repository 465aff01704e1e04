import MeshPolicy
package import Platform
import Streams
import YAML

/// Decodes AuthorizationPolicies of Istio, as far as they mean the same here (`docs/policy.md`). What does not is an
/// error with its line, and nothing of the file holds.
struct IstioPolicyDecoder {
    private let diagnostics: Diagnostics
    private let plain: PolicyDecoder

    private static let maximumBytes = 1 << 20
    private static let maximumDocuments = 256

    private init(_ diagnostics: Diagnostics) {
        self.diagnostics = diagnostics
        plain = PolicyDecoder(diagnostics: diagnostics)
    }

    /// The policies of a file, one a document.
    static func policies(in path: String) throws(ConfigurationError) -> [AuthorizationPolicy] {
        try policies(in: try NodeConfiguration.readRules(path), file: path)
    }

    static func policies(in text: String, file: String) throws(ConfigurationError) -> [AuthorizationPolicy] {
        let diagnostics = Diagnostics(file: file)
        let decoder = IstioPolicyDecoder(diagnostics)
        let documents = text.utf8.count > maximumBytes ? [] : documents(of: text)
        guard (1...maximumDocuments).contains(documents.count) else {
            let limits = "1 to \(maximumDocuments) AuthorizationPolicies in at most \(maximumBytes >> 20) MiB"
            throw ConfigurationError(issues: [.init(file: file, position: nil, message: "does not have \(limits)")])
        }
        var policies: [AuthorizationPolicy] = []
        for document in documents {
            if var policy = decoder.policy(try YAMLDocument.parse(document, file: file)) {
                policy.importedFrom = file
                policies.append(policy)
            }
        }
        try diagnostics.throwIfAny()
        return policies
    }

    /// Each behind as many empty lines as there are before it, so that positions are those of the file. A line `---` is
    /// a marker wherever it stands (YAML 1.2.2, 9.1.2).
    private static func documents(of text: String) -> [String] {
        // A carriage return and its line feed are one character.
        let lines = text.split(omittingEmptySubsequences: false) { $0 == "\n" || $0 == "\r\n" }
        let marks = lines.indices.filter {
            lines[$0] == "---" || lines[$0].hasPrefix("--- ") && isEmpty(lines[$0].dropFirst(4))
        }
        let starts = [-1] + marks
        return zip(starts, marks + [lines.count]).compactMap { start, end in
            let content = lines[(start + 1)..<end]
            guard !content.allSatisfy(isEmpty) else { return nil }
            return String(repeating: "\n", count: start + 1) + content.joined(separator: "\n")
        }
    }

    private static func isEmpty(_ line: Substring) -> Bool {
        let text = line.drop { $0 == " " }
        return text.isEmpty || text.first == "#"
    }

    private func policy(_ node: YAMLNode) -> AuthorizationPolicy? {
        let keys = ["apiVersion", "kind", "metadata", "spec"]
        let required = ["apiVersion", "kind", "metadata"]
        guard let mapping = MappingDecoder(node, what: "the document", keys: keys, required: required, diagnostics)
        else {
            return nil
        }
        expect("apiVersion", in: mapping, oneOf: ["security.istio.io/v1", "security.istio.io/v1beta1"])
        expect("kind", in: mapping, oneOf: ["AuthorizationPolicy"])
        guard let metadata = mapping["metadata"], let (name, dryRun) = metadataOf(metadata) else { return nil }
        var policy = AuthorizationPolicy(name: name, action: .allow, dryRun: dryRun, rules: [], position: node.position)
        // Nothing at all is what `allow-nothing` is made of.
        guard let spec = mapping["spec"], !spec.isNull else { return policy }
        let unsupported = ["selector", "targetRef", "targetRefs", "provider"]
        guard let fields = MappingDecoder(spec, what: "'spec'", keys: ["action", "rules"] + unsupported, diagnostics)
        else {
            return nil
        }
        refuse(unsupported, in: fields, "the file is for this node as a whole, and for no other")
        if fields["action"] != nil {
            guard let action = fields.choice("action", of: AuthorizationPolicy.Action.self) else { return nil }
            policy.action = action
        }
        if let rules = fields["rules"], !rules.isNull, rules.content != .sequence([]) {
            guard let rules = rules.list("'rules'", diagnostics, rule) else { return nil }
            policy.rules = rules
        }
        return policy
    }

    private func expect(_ key: String, in mapping: MappingDecoder, oneOf values: [String]) {
        guard let text = mapping.string(key), !values.contains(text) else { return }
        diagnostics.report(
            "'\(key)' is '\(text.prefix(80))': only \(values.joined(separator: " and ")) can be imported",
            at: mapping.position(of: key)
        )
    }

    private func refuse(_ keys: [String], in mapping: MappingDecoder, _ reason: String? = nil) {
        for key in keys where mapping[key] != nil {
            let why = reason.map { ": \($0)" } ?? ""
            diagnostics.report("'\(key)' is not supported\(why)", at: mapping.position(of: key))
        }
    }

    private func metadataOf(_ node: YAMLNode) -> (name: String, dryRun: Bool)? {
        let keys = ["name", "namespace", "labels", "annotations"]
        guard
            let mapping = MappingDecoder(node, what: "'metadata'", keys: keys, required: ["name"], diagnostics),
            let name = mapping.string("name")
        else { return nil }
        let namespace = mapping["namespace"] == nil ? nil : mapping.string("namespace")
        var dryRun = false
        if let annotations = mapping["annotations"], case .mapping(let entries) = annotations.content {
            for entry in entries where entry.key.contains("istio.io/") {
                let text = if case .scalar(let text, _) = entry.value.content { text } else { "" }
                guard entry.key == "istio.io/dry-run", text == "true" || text == "false" else {
                    diagnostics.report(
                        "the annotation '\(entry.key.prefix(80))' is not supported; 'istio.io/dry-run' may be \"true\" or \"false\"",
                        at: entry.value.position
                    )
                    continue
                }
                dryRun = text == "true"
            }
        }
        return (namespace.map { "\($0)/\(name)" } ?? name, dryRun)
    }

    private func rule(_ node: YAMLNode) -> AuthorizationPolicy.Rule? {
        guard let mapping = MappingDecoder(node, what: "a rule", keys: ["from", "to", "when"], diagnostics) else {
            return nil
        }
        return AuthorizationPolicy.Rule(
            from: mapping["from"]?.list("'from'", diagnostics) { wrapped($0, "source", "from", source) } ?? [],
            to: mapping["to"]?.list("'to'", diagnostics) { wrapped($0, "operation", "to", operation) } ?? [],
            when: mapping["when"]?.list("'when'", diagnostics, condition) ?? [],
            position: node.position
        )
    }

    private func wrapped<Value>(
        _ node: YAMLNode,
        _ key: String,
        _ list: String,
        _ decode: (YAMLNode) -> Value?
    ) -> Value? {
        MappingDecoder(node, what: "an element of '\(list)'", keys: [key], required: [key], diagnostics)?[key]
            .flatMap(decode)
    }

    private func source(_ node: YAMLNode) -> AuthorizationPolicy.Source? {
        let keys = [
            "principals", "notPrincipals", "requestPrincipals", "notRequestPrincipals", "namespaces", "notNamespaces",
            "ipBlocks", "notIpBlocks",
        ]
        let unsupported = ["remoteIpBlocks", "notRemoteIpBlocks", "serviceAccounts", "notServiceAccounts"]
        guard let mapping = plain.element(node, what: "'source'", keys: keys + unsupported) else { return nil }
        refuse(unsupported, in: mapping)
        return AuthorizationPolicy.Source(
            principals: plain.values(mapping, "principals", PolicyDecoder.principal),
            notPrincipals: plain.values(mapping, "notPrincipals", PolicyDecoder.principal),
            namespaces: plain.values(mapping, "namespaces") { try StringPattern(parsing: $0) },
            notNamespaces: plain.values(mapping, "notNamespaces") { try StringPattern(parsing: $0) },
            sourceIPs: plain.values(mapping, "ipBlocks") { try CIDR(parsing: $0) },
            notSourceIPs: plain.values(mapping, "notIpBlocks") { try CIDR(parsing: $0) },
            requestPrincipals: plain.values(mapping, "requestPrincipals") { try StringPattern(parsing: $0) },
            notRequestPrincipals: plain.values(mapping, "notRequestPrincipals") { try StringPattern(parsing: $0) }
        )
    }

    private func operation(_ node: YAMLNode) -> AuthorizationPolicy.Operation? {
        let keys = ["hosts", "notHosts", "ports", "notPorts", "methods", "notMethods", "paths", "notPaths"]
        guard let mapping = plain.element(node, what: "'operation'", keys: keys) else { return nil }
        return AuthorizationPolicy.Operation(
            hosts: plain.values(mapping, "hosts", Self.host),
            notHosts: plain.values(mapping, "notHosts", Self.host),
            ports: plain.values(mapping, "ports", Self.port),
            notPorts: plain.values(mapping, "notPorts", Self.port),
            methods: plain.values(mapping, "methods", PolicyDecoder.method),
            notMethods: plain.values(mapping, "notMethods", PolicyDecoder.method),
            paths: plain.values(mapping, "paths", PolicyDecoder.path),
            notPaths: plain.values(mapping, "notPaths", PolicyDecoder.path)
        )
    }

    /// A `*` stands at one end there.
    private static func host(_ text: String) throws -> HostPattern {
        if text != "*" { _ = try StringPattern(parsing: text) }
        return try HostPattern(parsing: text)
    }

    /// One port; Istio has no ranges.
    private static func port(_ text: String) throws -> ClosedRange<UInt16> {
        let range = try PolicyDecoder.ports(text)
        guard range.count == 1 else { throw StreamError(.badRequest, "'\(text)' is not one port") }
        return range
    }

    /// `key`, and `values` or `notValues`: the same as a list of `source` or `operation`.
    private func condition(_ node: YAMLNode) -> AuthorizationPolicy.Condition? {
        let keys = ["key", "values", "notValues"]
        guard
            let mapping = MappingDecoder(
                node,
                what: "a condition of 'when'",
                keys: keys,
                required: ["key"],
                diagnostics
            ),
            let key = mapping.string("key")
        else { return nil }
        guard mapping["values"] != nil || mapping["notValues"] != nil else {
            diagnostics.report("a condition of 'when' needs 'values' or 'notValues'", at: node.position)
            return nil
        }
        func both<Value>(_ parse: (String) throws -> Value) -> (values: [Value], notValues: [Value]) {
            (plain.values(mapping, "values", parse), plain.values(mapping, "notValues", parse))
        }
        switch key {
        case "source.ip":
            let (values, notValues) = both { try CIDR(parsing: $0) }
            return .source(.init(sourceIPs: values, notSourceIPs: notValues))
        case "source.namespace":
            let (values, notValues) = both { try StringPattern(parsing: $0) }
            return .source(.init(namespaces: values, notNamespaces: notValues))
        case "source.principal":
            let (values, notValues) = both(PolicyDecoder.principal)
            return .source(.init(principals: values, notPrincipals: notValues))
        case "request.auth.principal":
            let (values, notValues) = both { try StringPattern(parsing: $0) }
            return .source(.init(requestPrincipals: values, notRequestPrincipals: notValues))
        case "destination.port":
            let (values, notValues) = both(Self.port)
            return .operation(.init(ports: values, notPorts: notValues))
        default:
            diagnostics.report(
                "the key '\(key.prefix(80))' of 'when' is not supported; source.ip, source.namespace, source.principal, "
                    + "request.auth.principal and destination.port are",
                at: mapping.position(of: "key")
            )
            return nil
        }
    }
}

extension NodeConfiguration {
    /// The same with the AuthorizationPolicies of a file of Istio's in the place of its own policies.
    package mutating func importPolicies(ofIstio path: String) throws(ConfigurationError) {
        policy = try IstioPolicyDecoder.policies(in: path)
    }
}
