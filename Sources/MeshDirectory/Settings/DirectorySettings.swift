package import Platform
package import YAML

/// Where a mesh's directory is.
package struct DirectorySettings: Hashable, Sendable, CustomStringConvertible {
    package enum Place: Hashable, Sendable {
        case file(String)
        case etcd(EtcdSettings)
    }

    package var place: Place
    /// Where a node keeps what held last; nil: beside its configuration.
    package var state: String?

    package init(_ place: Place, state: String? = nil) {
        self.place = place
        self.state = state
    }

    /// For messages.
    package var description: String {
        switch place {
        case .file(let path): "the directory \(path)"
        case .etcd(let etcd): "the directory \(etcd.prefix) in etcd"
        }
    }
}

/// How an etcd cluster is reached, and where in it the directory is.
package struct EtcdSettings: Hashable, Sendable {
    /// Its members' client addresses; any will do.
    package var endpoints: [Authority]
    /// What every key begins with; it begins and ends with a slash.
    package var prefix: String
    /// A directory with what is shown to the members (`key.pem`, `cert-chain.pem`), and who vouches for them
    /// (`root-cert.pem`).
    package var credential: String

    package static let mostEndpoints = 16

    package init(endpoints: [Authority], prefix: String, credential: String) {
        (self.endpoints, self.prefix, self.credential) = (endpoints, prefix, credential)
    }

    /// `https://HOST:PORT`; the port is 2379 where none is given.
    package static func endpoint(_ text: String) throws(AddressError) -> Authority {
        let scheme = "https://"
        guard text.hasPrefix(scheme) else {
            throw AddressError("'\(Printable.escape(text))' is not https://HOST:PORT: etcd is asked over TLS only")
        }
        var rest = text.dropFirst(scheme.count)
        if rest.last == "/" { rest.removeLast() }
        let hasPort = rest.last != "]" && rest.lastIndex(of: ":").map { !rest[$0...].contains("]") } ?? false
        return try Authority(parsing: hasPort ? String(rest) : "\(rest):2379")
    }

    package static func prefix(_ text: String) throws(AddressError) -> String {
        guard text.hasPrefix("/"), text.hasSuffix("/"), text.utf8.count <= 256,
            text.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F })
        else {
            throw AddressError("'\(Printable.escape(text))' must begin and end with '/', as /mesh/example.org/ does")
        }
        return text
    }
}

/// Decodes the key `directory`.
package struct DirectorySettingsDecoder {
    private let diagnostics: Diagnostics
    /// Turns the paths of the file into paths for the process.
    private let resolve: (String) -> String

    package init(diagnostics: Diagnostics, resolve: @escaping (String) -> String) {
        self.diagnostics = diagnostics
        self.resolve = resolve
    }

    package func decode(_ node: YAMLNode) -> DirectorySettings? {
        let keys = ["file", "etcd", "prefix", "credential", "state"]
        guard let mapping = MappingDecoder(node, what: "'directory'", keys: keys, diagnostics) else { return nil }
        let state = mapping.string("state").map(resolve)
        guard (mapping["file"] == nil) != (mapping["etcd"] == nil) else {
            if !mapping.hasUnknownKeys {
                diagnostics.report(
                    "'directory' needs either 'file', a path, or 'etcd', a list of https://HOST:PORT",
                    at: node.position
                )
            }
            return nil
        }
        if mapping["file"] != nil {
            for key in ["prefix", "credential"] where mapping[key] != nil {
                diagnostics.report("'\(key)' is for 'etcd': remove it", at: mapping.position(of: key))
            }
            return mapping.string("file").map { DirectorySettings(.file(resolve($0)), state: state) }
        }
        for key in ["prefix", "credential"] where mapping[key] == nil {
            diagnostics.report("'directory' with 'etcd' needs the key '\(key)'", at: node.position)
        }
        let endpoints =
            mapping["etcd"]?.list("'etcd'", diagnostics) { node in
                node.parsed("'etcd'", diagnostics) { try EtcdSettings.endpoint($0) }
            } ?? []
        if endpoints.count > EtcdSettings.mostEndpoints {
            diagnostics.report(
                "'etcd' has \(endpoints.count) members; \(EtcdSettings.mostEndpoints) are allowed",
                at: mapping.position(of: "etcd")
            )
        }
        guard let prefix = mapping.value("prefix", { try EtcdSettings.prefix($0) }),
            let credential = mapping.string("credential"), !endpoints.isEmpty
        else { return nil }
        let etcd = EtcdSettings(endpoints: endpoints, prefix: prefix, credential: resolve(credential))
        return DirectorySettings(.etcd(etcd), state: state)
    }
}
