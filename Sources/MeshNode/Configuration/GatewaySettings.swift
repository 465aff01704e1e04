import Platform
import YAML

extension NodeConfiguration {
    /// The keys of an `hbone` listener whose clients need not be members of the mesh: those behind a proxy that ends
    /// TLS, and those that show a token instead.
    package struct GatewaySettings: Hashable, Sendable {
        /// What clients must show.
        package var clients = ClientCertificates.mesh
        /// Credential directories for server names, the default first; empty: the node's own.
        package var credentials: [String] = []
        /// Connections come without TLS: a proxy has ended it.
        package var isClear = false

        package init() {}
    }
}

/// Decodes what makes a gateway of an `hbone` listener: `clients`, `credentials`, `cleartext`, and that it has `jwt`.
struct GatewayDecoder {
    static let listenerKeys = ["cleartext"]
    let diagnostics: Diagnostics
    let paths: PathResolution

    func decode(_ mapping: MappingDecoder, into listener: inout NodeConfiguration.Listener) {
        let (name, kind) = (listener.name, listener.protocol)
        let report = { (key: String, message: String) in
            diagnostics.report("listener '\(name)': \(message)", at: mapping.position(of: key))
        }
        guard kind == .hbone else {
            if mapping["cleartext"] != nil { report("cleartext", "'cleartext' is for protocol hbone only: remove it") }
            return
        }
        guard ["clients", "credentials", "cleartext", "jwt"].contains(where: { mapping[$0] != nil }) else { return }
        var settings = NodeConfiguration.GatewaySettings()
        settings.clients = mapping.choice("clients", of: NodeConfiguration.ClientCertificates.self) ?? .mesh
        settings.credentials =
            mapping["credentials"]?.list("'credentials'", diagnostics) { node in
                node.string("a directory of 'credentials'", diagnostics).map(paths.resolve)
            } ?? []
        settings.isClear = mapping.bool("cleartext") ?? false
        if settings.isClear {
            for key in ["clients", "credentials"] where mapping[key] != nil {
                report(key, "'\(key)' is for TLS, and 'cleartext: true' has none: remove one")
            }
            settings.clients = .none
        } else if !settings.credentials.isEmpty, settings.clients == .mesh {
            report(
                "credentials",
                "'credentials' are shown to clients that know this node by its names; members of the mesh know it by its "
                    + "identity: remove it, or add 'clients: none' or 'clients: optional'"
            )
        }
        // What every other listener is says nothing: see the configuration that --print-config prints.
        guard settings.clients != .mesh || mapping["jwt"] != nil else { return }
        listener.gateway = settings
    }
}
