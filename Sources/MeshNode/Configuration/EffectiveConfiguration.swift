import Platform
import YAML

/// A configuration as it is in effect: what the file says, in its order and words, and the default of every key that
/// has one and is not written. JSON, which is YAML as well: written to a file, it is a configuration that means the
/// same.
///
/// Made of the document, not of what was decoded: a key that the decoder knows cannot be missing here. A configuration
/// has no secret in it, only the paths of files.
struct EffectiveConfiguration {
    /// The key of what holds beside the file, for people: nobody reads it.
    static let fromDirectory = "fromDirectory"

    /// A key and its default, as the file would have it.
    private typealias Default = (key: String, value: String)

    private static let connections: [Default] = [
        ("keepAlive", "10s"), ("keepAliveTimeout", "20s"), ("connectTimeout", "10s"), ("handshakeTimeout", "10s"),
        ("requestTimeout", "15s"), ("idleTimeout", "5m"), ("maximumAge", "1h"), ("drainTimeout", "none"),
        ("perPeer", "16"), ("resumable", "true"), ("resumeTimeout", "60s"), ("standby", "false"),
        ("multipath", "false"), ("traceparent", "foreign"),
    ]
    private static let ssh: [Default] = [("sessions", "4"), ("engine", "auto")]
    private static let transparent: [Default] = [("mode", "redirect"), ("direction", "outbound")]
    private static let capture: [Default] = [("node", "mark"), ("local", "true"), ("onFailure", "closed")]
    private static let names: [Default] = [
        ("ipv4", "198.18.0.0/15"), ("ipv6", "fd6d:6573:6800::/64"), ("ttl", "5"),
    ]

    private static let timeouts: [Default] = [("head", "15s"), ("idle", "60s"), ("upstream", "5m")]
    private static let limits: [Default] = [
        ("head", "32KiB"), ("fields", "100"), ("requests", "10000"), ("connections", "20000"),
    ]
    /// The protocols that a load balancer can stand in front of.
    private static let announced = Set(ProxyProtocolDecoder.protocols.map(\.rawValue))

    /// JSON on several lines, indented.
    ///
    /// - Parameter added: What holds beside it, and where that comes from.
    static func json(of root: YAMLNode, adding added: (origin: String, document: YAMLNode)? = nil) -> String {
        var text = ""
        var root = complete(root)
        remove(fromDirectory, from: &root)
        if let added {
            var entries = [entry("origin", YAMLNode(position: nowhere, content: .scalar(added.origin, isPlain: false)))]
            if case .mapping(let own) = added.document.content {
                // Long, and nothing that a person reads.
                entries += own.filter { $0.key != "revocations" && $0.key != "bundles" }
            }
            append(fromDirectory, YAMLNode(position: nowhere, content: .mapping(entries)), to: &root)
        }
        write(root, indent: "", to: &text)
        return text + "\n"
    }

    // MARK: Defaults

    private static func complete(_ root: YAMLNode) -> YAMLNode {
        var root = root
        edit(&root, "identity") { identity in
            if case .mapping = identity.content { add([("startTimeout", "30s")], to: &identity) }
        }
        edit(&root, "listeners") { edit(each: &$0, completeListener) }
        edit(&root, "endpoints") { edit(each: &$0, completeEndpoint) }
        edit(&root, "policy") { edit(each: &$0) { add([("dryRun", "false")], to: &$0) } }
        add([("default", "deny")], to: &root)
        if value(of: "connections", in: root) == nil { append("connections", mapping, to: &root) }
        edit(&root, "connections") { add(connections, to: &$0) }
        return root
    }

    private static func completeListener(_ listener: inout YAMLNode) {
        let kind = text(of: "protocol", in: listener)
        if let kind, announced.contains(kind) { add([("proxyProtocol", "none")], to: &listener) }
        switch kind {
        case "tls": add([("clients", "none")], to: &listener)
        case "hbone":
            let isClear = text(of: "cleartext", in: listener) == "true"
            if !isClear { add([("clients", "mesh")], to: &listener) }
            add([("cleartext", "false")], to: &listener)
        case "http", "https":
            if kind == "https" { add([("clients", "none")], to: &listener) }
            if value(of: "timeouts", in: listener) == nil { append("timeouts", mapping, to: &listener) }
            edit(&listener, "timeouts") { add(timeouts, to: &$0) }
            if value(of: "limits", in: listener) == nil { append("limits", mapping, to: &listener) }
            edit(&listener, "limits") { add(limits, to: &$0) }
            edit(&listener, "routes") { edit(each: &$0) { add([("path", "/"), ("h2", "false")], to: &$0) } }
        case "transparent":
            add(transparent, to: &listener)
            if text(of: "direction", in: listener) == "inbound" { add([("plaintext", "deny")], to: &listener) }
        case "dns":
            if value(of: "names", in: listener) == nil { append("names", mapping, to: &listener) }
            edit(&listener, "names") { add(names, to: &$0) }
        default: break
        }
        edit(&listener, "capture") { add(capture, to: &$0) }
        if kind != "http-proxy" { edit(&listener, "jwt") { add([("forwardToken", "false")], to: &$0) } }
    }

    private static func completeEndpoint(_ endpoint: inout YAMLNode) {
        if value(of: "direct", in: endpoint) == nil {
            add([("path", "auto"), ("reverse", "false"), ("resumable", "false"), ("filter", "false")], to: &endpoint)
        }
        edit(&endpoint, "ssh") { add(ssh, to: &$0) }
    }

    // MARK: Documents

    private static let nowhere = SourcePosition(line: 0, column: 0)
    private static let mapping = YAMLNode(position: nowhere, content: .mapping([]))

    private static func value(of key: String, in node: YAMLNode) -> YAMLNode? {
        guard case .mapping(let entries) = node.content else { return nil }
        return entries.first { $0.key == key }?.value
    }

    private static func text(of key: String, in node: YAMLNode) -> String? {
        guard case .scalar(let text, _)? = value(of: key, in: node)?.content else { return nil }
        return text
    }

    private static func edit(_ node: inout YAMLNode, _ key: String, _ body: (inout YAMLNode) -> Void) {
        guard case .mapping(var entries) = node.content, let index = entries.firstIndex(where: { $0.key == key }) else {
            return
        }
        body(&entries[index].value)
        node.content = .mapping(entries)
    }

    private static func edit(each node: inout YAMLNode, _ body: (inout YAMLNode) -> Void) {
        guard case .sequence(var elements) = node.content else { return }
        for index in elements.indices { body(&elements[index]) }
        node.content = .sequence(elements)
    }

    private static func add(_ defaults: [Default], to node: inout YAMLNode) {
        for (key, text) in defaults where value(of: key, in: node) == nil {
            append(key, YAMLNode(position: nowhere, content: .scalar(text, isPlain: true)), to: &node)
        }
    }

    private static func remove(_ key: String, from node: inout YAMLNode) {
        guard case .mapping(let entries) = node.content else { return }
        node.content = .mapping(entries.filter { $0.key != key })
    }

    private static func entry(_ key: String, _ value: YAMLNode) -> YAMLNode.Entry {
        YAMLNode.Entry(key: key, keyPosition: nowhere, value: value)
    }

    private static func append(_ key: String, _ value: YAMLNode, to node: inout YAMLNode) {
        guard case .mapping(var entries) = node.content else { return }
        entries.append(YAMLNode.Entry(key: key, keyPosition: nowhere, value: value))
        node.content = .mapping(entries)
    }

    // MARK: Text

    private static func write(_ node: YAMLNode, indent: String, to text: inout String) {
        switch node.content {
        case .scalar(let value, let isPlain): text += scalar(value, isPlain: isPlain)
        case .sequence(let elements):
            list(elements, "[", "]", indent, &text) { write($0, indent: indent + "  ", to: &$1) }
        case .mapping(let entries):
            list(entries, "{", "}", indent, &text) { entry, text in
                text += "\(quoted(entry.key)): "
                write(entry.value, indent: indent + "  ", to: &text)
            }
        }
    }

    private static func list<Element>(
        _ elements: [Element],
        _ open: String,
        _ close: String,
        _ indent: String,
        _ text: inout String,
        _ body: (Element, inout String) -> Void
    ) {
        guard !elements.isEmpty else {
            text += open + close
            return
        }
        text += open
        for (index, element) in elements.enumerated() {
            text += "\(index == 0 ? "" : ",")\n\(indent)  "
            body(element, &text)
        }
        text += "\n\(indent)\(close)"
    }

    /// What JSON has a kind for, and was not quoted, has it.
    private static func scalar(_ value: String, isPlain: Bool) -> String {
        if isPlain, value == "true" || value == "false" { return value }
        if isPlain, let number = Int(value), "\(number)" == value { return value }
        return quoted(value)
    }

    private static func quoted(_ text: String) -> String {
        var json = JSONWriter()
        json.string(text)
        return json.text
    }
}

extension NodeConfiguration {
    /// What is in effect, with every default: JSON that is a configuration itself; nil where no file says it.
    package var inEffect: String? { document.map { EffectiveConfiguration.json(of: $0) } }
}
