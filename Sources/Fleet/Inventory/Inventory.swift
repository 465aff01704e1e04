package import Platform
import YAML

/// Machines to enrol, from a YAML file: a list of hosts, or a mapping with `hosts` and what they have in common,
/// `defaults`.
package struct Inventory: Hashable, Sendable {
    /// One machine. What is nil is up to the command line.
    package struct Host: Hashable, Sendable {
        /// `[user@]host[:port]` or a `Host` alias.
        package var host = ""
        package var name: String?
        package var namespace: String?
        package var user: String?
        package var port: UInt16?
        package var identityFile: String?
        package var jump: String?
        package var allowPorts: [UInt16]?
        package var labels: [String: String]?
        package var position: SourcePosition
    }

    package var hosts: [Host]

    private static let keys = [
        "host", "name", "namespace", "user", "port", "identityFile", "jump", "allowPorts", "labels",
    ]

    /// Decodes the YAML `text`; `file` is named in errors.
    package static func parse(_ text: String, file: String) throws(ConfigurationError) -> Inventory {
        let root = try YAMLDocument.parse(text, file: file)
        let diagnostics = Diagnostics(file: file)
        var defaults = Host(position: root.position)
        var list: YAMLNode? = root
        if case .mapping = root.content {
            let mapping = MappingDecoder(
                root,
                what: "the inventory",
                keys: ["defaults", "hosts"],
                required: ["hosts"],
                diagnostics
            )
            if let node = mapping?["defaults"] {
                let keys = keys.filter { $0 != "host" && $0 != "name" }
                if let found = MappingDecoder(node, what: "'defaults'", keys: keys, diagnostics) {
                    defaults = host(found, defaults: defaults, diagnostics)
                }
            }
            list = mapping?["hosts"]
        }
        let hosts = list?.list("the list of hosts", diagnostics) { element(of: $0, defaults, diagnostics) } ?? []
        try diagnostics.throwIfAny()
        return Inventory(hosts: hosts)
    }

    /// A mapping, or just a destination.
    private static func element(of node: YAMLNode, _ defaults: Host, _ diagnostics: Diagnostics) -> Host? {
        if case .scalar = node.content {
            guard let destination = node.string("a host", diagnostics) else { return nil }
            var host = defaults
            (host.host, host.position) = (destination, node.position)
            return host
        }
        return MappingDecoder(node, what: "a host", keys: keys, required: ["host"], diagnostics).map {
            host($0, defaults: defaults, diagnostics)
        }
    }

    private static func host(_ mapping: MappingDecoder, defaults: Host, _ diagnostics: Diagnostics) -> Host {
        var host = defaults
        host.position = mapping.node.position
        host.host = mapping.string("host") ?? ""
        host.name = mapping.string("name")
        host.namespace = mapping.string("namespace") ?? defaults.namespace
        host.user = mapping.string("user") ?? defaults.user
        host.port = mapping.value("port", port) ?? defaults.port
        host.identityFile = mapping.string("identityFile") ?? defaults.identityFile
        host.jump = mapping.string("jump") ?? defaults.jump
        host.allowPorts =
            mapping["allowPorts"]?.list("'allowPorts'", diagnostics) {
                $0.parsed("a port of 'allowPorts'", diagnostics, port)
            } ?? defaults.allowPorts
        if let node = mapping["labels"] { host.labels = labels(node, diagnostics) }
        return host
    }

    private static func labels(_ node: YAMLNode, _ diagnostics: Diagnostics) -> [String: String]? {
        guard case .mapping(let entries) = node.content else {
            diagnostics.report("'labels' must be a mapping of names to texts, not \(node.kind)", at: node.position)
            return nil
        }
        var labels: [String: String] = [:]
        for entry in entries { labels[entry.key] = entry.value.string("the label '\(entry.key)'", diagnostics) }
        return labels
    }

    private static func port(_ text: String) throws -> UInt16 {
        guard let port = UInt16(text), port > 0 else { throw PortError(text: text) }
        return port
    }

    private struct PortError: Error, CustomStringConvertible {
        let text: String
        var description: String { "'\(text)' is no port: 1 to 65535" }
    }
}
