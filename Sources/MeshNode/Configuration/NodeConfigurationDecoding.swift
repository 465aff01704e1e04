import Glibc
import MeshDirectory
import MeshIdentity
import MeshPaths
import MeshPolicy
public import Platform
import SSHSignal
package import Streams
import YAML

extension NodeConfiguration {
    /// Reads and decodes the file at `path`. What it says is not checked against the machine or against itself:
    /// ``validate(checkingFiles:)`` does that.
    public static func load(_ path: String) throws(ConfigurationError) -> NodeConfiguration {
        try parse(readRules(path), file: path)
    }

    /// Decodes the YAML `text`. `file` is named in errors, and relative paths in `text` are taken from its directory.
    public static func parse(_ text: String, file: String) throws(ConfigurationError) -> NodeConfiguration {
        let root = try YAMLDocument.parse(text, file: file)
        let diagnostics = Diagnostics(file: file)
        let configuration = NodeConfigurationDecoder(diagnostics: diagnostics, paths: PathResolution(file: file))
            .decode(root)
        try diagnostics.throwIfAny()
        guard let configuration else {
            throw ConfigurationError(issues: [.init(file: file, position: root.position, message: "cannot be decoded")])
        }
        return configuration
    }

    /// The text of a file that says who is trusted, who is let in, and where everything goes: one that anybody
    /// can change is refused.
    static func readRules(_ path: String) throws(ConfigurationError) -> String {
        let (text, access) = try readText(path)
        guard access.isRegular, access.mode & 0o002 != 0 else { return text }
        let message = "can be changed by anybody on this machine. Look at what is in it, and then: chmod o-w \(path)"
        throw ConfigurationError(issues: [.init(file: path, position: nil, message: message)])
    }

    /// The text of a file, with who can change the very file that was read.
    static func readText(_ path: String) throws(ConfigurationError) -> (text: String, access: FileAccess) {
        func failure(_ message: String) -> ConfigurationError {
            ConfigurationError(issues: [.init(file: path, position: nil, message: message)])
        }
        let contents: (bytes: [UInt8], access: FileAccess)?
        do throws(LocalFile.Failure) {
            // It is read again on every reload: whatever somebody has put there must not hold the node.
            contents = try LocalFile.readWithAccess(path, limit: YAMLDocument.maximumBytes, allowsPipe: false)
        } catch {
            throw failure(
                error.number == EFBIG
                    ? "is larger than \(YAMLDocument.maximumBytes >> 20) MiB: not a configuration file"
                    : "cannot be read: \(error.reason)"
            )
        }
        guard let contents else { throw failure("cannot be read: \(String(cString: strerror(ENOENT)))") }
        guard let text = String(validating: contents.bytes, as: UTF8.self) else {
            throw failure("is not UTF-8 text: save it as UTF-8")
        }
        return (text, contents.access)
    }
}

/// Turns the paths of a configuration file into paths for the process.
struct PathResolution {
    private let directory: String
    private let home = LocalAccount.homeDirectory

    init(file: String) {
        directory = file.lastIndex(of: "/").map { String(file[...$0]) } ?? ""
    }

    /// Absolute paths stay, `~/` is the home directory, anything else is taken from the file's directory.
    func resolve(_ path: String) -> String {
        if path.hasPrefix("/") { return path }
        if path.hasPrefix("~/") { return home + path.dropFirst() }
        return directory + path
    }
}

struct NodeConfigurationDecoder {
    let diagnostics: Diagnostics
    let paths: PathResolution

    func decode(_ root: YAMLNode) -> NodeConfiguration? {
        let keys = [
            "identity", "listeners", "endpoints", "default", "policy", "admin", "metrics", "accessLog", "renewal",
            "connections", "aliases", "trust", "labels", "directory", "reverse", "advertise",
            EffectiveConfiguration.fromDirectory,
        ]
        // Who is reached through gateways need not listen.
        let required = ["identity"] + (ReverseDecoder.isIn(root) ? [] : ["listeners"])
        guard
            let mapping = MappingDecoder(root, what: "the configuration", keys: keys, required: required, diagnostics)
        else { return nil }

        var configuration = NodeConfiguration(
            file: diagnostics.file,
            identity: "",
            listeners: mapping["listeners"]?.list("'listeners'", diagnostics, listener) ?? [],
            endpoints: mapping["endpoints"]?.list("'endpoints'", diagnostics, endpoint) ?? [],
            unmatched: mapping.choice("default", of: MeshRules.Unmatched.self) ?? .deny,
            policy: mapping["policy"].map {
                PolicyDecoder(diagnostics: diagnostics, resolve: paths.resolve).policies($0)
            },
            admin: mapping.value("admin", admin) ?? nil,
            metrics: mapping.value("metrics", NodeConfiguration.BindAddress.init(parsing:)),
            accessLog: mapping["accessLog"].flatMap(accessLog),
            renewal: mapping["renewal"].flatMap(renewal),
            connections: mapping["connections"].map { ConnectionSettingsDecoder(diagnostics: diagnostics).decode($0) }
                ?? .defaults
        )
        if let identity = mapping["identity"].flatMap(identity) { configuration.identity = identity }
        if case .scalar(let text, _)? = mapping["admin"]?.content, text.contains("/") {
            configuration.adminSocket = paths.resolve(text)
        }
        configuration.reverse = mapping["reverse"].map { ReverseDecoder(diagnostics: diagnostics).decode($0) } ?? []
        configuration.document = root
        let trust = ForeignTrustDecoder(diagnostics: diagnostics, resolve: paths.resolve)
        configuration.trust = mapping["trust"].map(trust.decode) ?? []
        configuration.directory = mapping["directory"].flatMap {
            DirectorySettingsDecoder(diagnostics: diagnostics, resolve: paths.resolve).decode($0)
        }
        configuration.aliases =
            mapping["aliases"]?.list("'aliases'", diagnostics) {
                $0.parsed("'aliases'", diagnostics) { try TrustDomain($0) }
            } ?? []
        configuration.advertise =
            mapping["advertise"]?.list("'advertise'", diagnostics) {
                $0.parsed("'advertise'", diagnostics) { try Authority(parsing: $0) }
            } ?? []
        if let labels = mapping["labels"] {
            configuration.labels = NodeLabelsDecoder(diagnostics: diagnostics).decode(labels)
        }
        for key in keys where mapping[key] != nil { configuration.positions[key] = mapping.position(of: key) }
        return configuration
    }

    private func identity(_ node: YAMLNode) -> NodeConfiguration.IdentitySource? {
        guard case .mapping = node.content else {
            return node.string("'identity'", diagnostics).map { text in
                // A path can hardly look like this.
                if text.hasPrefix("unix:") {
                    diagnostics.report(
                        "'identity' is the path of a credential directory; for an agent's socket write "
                            + "{workloadAPI: \"\(text.prefix(200))\"}",
                        at: node.position
                    )
                }
                return .directory(paths.resolve(text))
            }
        }
        let keys = ["workloadAPI", "spiffeID", "startTimeout"]
        guard let mapping = MappingDecoder(node, what: "'identity'", keys: keys, required: ["workloadAPI"], diagnostics)
        else { return nil }
        let id = mapping.value("spiffeID") { try SPIFFEID($0) }
        let timeout = mapping.value("startTimeout") { try Duration(parsing: $0) }
        guard let socket = mapping.value("workloadAPI", { try WorkloadAPISettings.socketPath($0) }) else { return nil }
        var settings = WorkloadAPISettings(socket: socket, spiffeID: id)
        if let timeout { settings.startTimeout = timeout }
        return .workloadAPI(settings)
    }

    /// nil: it is the path of a socket.
    private func admin(_ text: String) throws -> NodeConfiguration.BindAddress? {
        if text.contains("/") {
            _ = try SocketAddress(unixPath: paths.resolve(text))
            return nil
        }
        return try NodeConfiguration.BindAddress(parsing: text)
    }

    private func accessLog(_ node: YAMLNode) -> NodeConfiguration.AccessLogSettings? {
        let keys = ["file"]
        guard let mapping = MappingDecoder(node, what: "'accessLog'", keys: keys, required: keys, diagnostics),
            let file = mapping.string("file")
        else { return nil }
        return NodeConfiguration.AccessLogSettings(path: file == "stdout" ? nil : paths.resolve(file))
    }

    private func renewal(_ node: YAMLNode) -> RenewalSource? {
        guard
            let mapping = MappingDecoder(
                node,
                what: "'renewal'",
                keys: ["from", "identity"],
                required: ["from"],
                diagnostics
            ),
            let from = mapping.value("from", { try Authority(parsing: $0) })
        else { return nil }
        return RenewalSource(from: from, identity: mapping.value("identity") { try SPIFFEID($0) })
    }

    private func listener(_ node: YAMLNode) -> NodeConfiguration.Listener? {
        let keys =
            ["name", "bind", "protocol", "forwardTo", "users", "jwt"] + IngressDecoder.listenerKeys
            + GatewayDecoder.listenerKeys
            + ProxyProtocolDecoder.listenerKeys
            + CaptureDecoder.listenerKeys
        let required = ["name", "bind", "protocol"]
        guard let mapping = MappingDecoder(node, what: "a listener", keys: keys, required: required, diagnostics) else {
            return nil
        }
        let name = mapping.value("name", Self.listenerName)
        let bind = mapping.value("bind", NodeConfiguration.BindAddress.init(parsing:))
        let kind = mapping.choice("protocol", of: NodeConfiguration.ListenerProtocol.self)
        let forwardTo = mapping.value("forwardTo") { try Authority(parsing: $0) }
        guard let name, let bind, let kind else { return nil }

        switch kind {
        case .tcp, .tls:
            if mapping["forwardTo"] == nil {
                diagnostics.report(
                    "listener '\(name)': protocol \(kind.rawValue) needs 'forwardTo', the host:port it leads to",
                    at: node.position
                )
            }
        case .http, .https:
            if mapping["forwardTo"] != nil {
                diagnostics.report(
                    "listener '\(name)': 'forwardTo' means nothing with protocol \(kind.rawValue), whose requests go where "
                        + "'routes' say: write 'routes: [{to: HOST:PORT}]'",
                    at: mapping.position(of: "forwardTo")
                )
            }
        case .hbone, .socks5, .httpProxy, .transparent, .dns, .sni:
            if mapping["forwardTo"] != nil {
                diagnostics.report(
                    "listener '\(name)': 'forwardTo' means nothing with protocol \(kind.rawValue), whose connections "
                        + "name their destination: remove it, or use protocol tcp",
                    at: mapping.position(of: "forwardTo")
                )
            }
        }
        let users = mapping.string("users").map(paths.resolve)
        let mayHaveUsers = kind == .socks5 || kind == .httpProxy
        if mapping["users"] != nil, !mayHaveUsers {
            diagnostics.report(
                "listener '\(name)': 'users' is for protocols socks5 and http-proxy, which have passwords",
                at: mapping.position(of: "users")
            )
        }
        let hasTokens = kind == .httpProxy && mapping["jwt"] != nil
        if mapping["users"] == nil, mayHaveUsers, !hasTokens, !bind.address.isLoopback {
            diagnostics.report(
                "listener '\(name)': protocol \(kind.rawValue) on \(bind), beyond loopback, would carry anybody's streams "
                    + "in the name of this node: add 'users', a file of names and hashed passwords, or bind "
                    + "127.0.0.1:\(bind.port)",
                at: mapping.position(of: "bind")
            )
        }
        var listener = NodeConfiguration.Listener(
            name: name,
            bind: bind,
            protocol: kind,
            forwardTo: forwardTo,
            users: users,
            position: node.position
        )
        TokenSettingsDecoder(diagnostics: diagnostics, resolve: paths.resolve).decode(mapping, into: &listener)
        ProxyProtocolDecoder(diagnostics: diagnostics).decode(mapping, into: &listener)
        CaptureDecoder(diagnostics: diagnostics).decode(mapping, into: &listener)
        IngressDecoder(diagnostics: diagnostics, paths: paths).decode(mapping, into: &listener)
        GatewayDecoder(diagnostics: diagnostics, paths: paths).decode(mapping, into: &listener)
        return listener
    }

    /// A name is one word of the line `ready NAME ADDRESS`.
    private static func listenerName(_ text: String) throws -> String {
        let isValid =
            text.utf8.count <= 63
            && text.unicodeScalars.allSatisfy {
                $0.isASCII && ($0.properties.isAlphabetic || "0123456789-_.".unicodeScalars.contains($0))
            }
        guard isValid else {
            throw StreamError(.badRequest, "'\(text.prefix(80))' must be at most 63 letters, digits, '-', '_' or '.'")
        }
        return text
    }

    func endpoint(_ node: YAMLNode) -> NodeConfiguration.Endpoint? {
        let keys = [
            "match", "address", "hbone", "identity", "labels", "proxy", "token", "via", "viaIdentity", "direct", "tls",
            "proxyProtocol", "ssh", "path", "resumable", "filter", "reverse",
        ]
        guard let mapping = MappingDecoder(node, what: "an endpoint", keys: keys, required: ["match"], diagnostics)
        else {
            return nil
        }
        let match = mapping.value("match", EndpointMatch.init(parsing:))
        let path = mapping.choice("path", of: PathPreference.self) ?? .automatic
        let direct = mapping.bool("direct")
        var endpoint = NodeConfiguration.Endpoint(
            match: match ?? EndpointMatch(host: .any, port: nil),
            address: nil,
            hbone: mapping["hbone"].map(servers) ?? [],
            identities: mapping["identity"].map { identities($0) } ?? [],
            direct: direct ?? false,
            path: path,
            position: node.position
        )
        if let (address, keepsPort) = mapping.value("address", Self.address) {
            (endpoint.address, endpoint.keepsPort) = (address, keepsPort)
        }
        endpoint.reverse = mapping.bool("reverse") ?? false
        endpoint.resumable = mapping.bool("resumable") ?? false
        tunnels.decode(mapping, into: &endpoint)
        if let via = mapping["via"] {
            endpoint.via =
                via.list("'via'", diagnostics) { gateway in
                    gateway.parsed("a gateway of 'via'", diagnostics) { try Authority(parsing: $0) }
                } ?? []
        }
        if let identity = mapping["viaIdentity"] { endpoint.viaIdentities = identities(identity, "'viaIdentity'") }
        if let tls = mapping["tls"] { endpoint.tls = directTLS(tls) }
        endpoint.letsFiltersSee = mapping.bool("filter") ?? false
        endpoint.announces = mapping.choice("proxyProtocol", of: ProxyVersion.self)
        if let ssh = mapping["ssh"] { endpoint.ssh = sshAccess(ssh) }
        if !mapping.hasUnknownKeys, direct != nil || mapping["direct"] == nil { checkCombination(endpoint, mapping) }
        return match == nil ? nil : endpoint
    }

    /// `host:port`, or `host:*` for the port that is asked for.
    private static func address(_ text: String) throws -> (Authority, keepsPort: Bool) {
        guard text.hasSuffix(":*") else { return (try Authority(parsing: text), false) }
        return (try Authority(parsing: "\(text.dropLast())1"), true)
    }

    /// One, or several.
    private func servers(_ node: YAMLNode) -> [Authority] {
        let one = { (node: YAMLNode) in node.parsed("'hbone'", self.diagnostics) { try Authority(parsing: $0) } }
        guard case .sequence = node.content else { return one(node).map { [$0] } ?? [] }
        let all = node.list("'hbone'", diagnostics, one) ?? []
        for (index, server) in all.enumerated() where all[..<index].contains(server) {
            diagnostics.report("'hbone': \(server) is there twice: remove one", at: node.position)
        }
        if all.count > Self.mostServers {
            diagnostics.report("'hbone' has \(all.count) servers; \(Self.mostServers) are allowed", at: node.position)
        }
        return all
    }

    private static let mostServers = 64

    private func identities(_ node: YAMLNode, _ key: String = "'identity'") -> [SPIFFEID] {
        let one = { (node: YAMLNode) in node.parsed(key, self.diagnostics) { try SPIFFEID($0) } }
        if case .sequence = node.content { return node.list(key, diagnostics, one) ?? [] }
        return one(node).map { [$0] } ?? []
    }

    private var tunnels: TunnelDecoder { TunnelDecoder(diagnostics: diagnostics, resolve: paths.resolve) }

    private func directTLS(_ node: YAMLNode) -> DirectTLS? {
        let keys = ["serverName", "roots", "credential"]
        guard let mapping = MappingDecoder(node, what: "'tls'", keys: keys, diagnostics) else { return nil }
        return DirectTLS(
            serverName: mapping.value("serverName") { try Authority(host: $0, port: 1).host },
            roots: mapping.string("roots").map(paths.resolve),
            credential: mapping.string("credential").map(paths.resolve)
        )
    }

    private func sshAccess(_ node: YAMLNode) -> NodeConfiguration.SSHAccess? {
        let keys = ["destination", "identityFile", "knownHosts", "config", "sessions", "engine"]
        guard
            let mapping = MappingDecoder(node, what: "'ssh'", keys: keys, required: ["destination"], diagnostics),
            let destination = mapping.value("destination", { try Destination(parsing: $0) })
        else { return nil }
        let sessions = mapping.value("sessions") { text -> Int in
            guard let count = Int(text), (1...16).contains(count), text == "\(count)" else {
                throw StreamError(.badRequest, "'\(text.prefix(80))' is not a number from 1 to 16")
            }
            return count
        }
        return NodeConfiguration.SSHAccess(
            destination: destination,
            identityFile: mapping.string("identityFile").map(paths.resolve),
            knownHosts: mapping.string("knownHosts").map(paths.resolve),
            config: mapping.string("config").map(paths.resolve),
            sessions: sessions ?? PeerAccess.defaultSessions,
            engine: mapping.choice("engine", of: SSHEngine.self) ?? .automatic
        )
    }

    /// Keys that contradict each other, or mean nothing without another.
    private func checkCombination(_ endpoint: NodeConfiguration.Endpoint, _ mapping: MappingDecoder) {
        let has = { mapping[$0] != nil }
        let report = { (key: String, message: String) in
            diagnostics.report("endpoint '\(endpoint.match)': \(message)", at: mapping.position(of: key))
        }
        if has("direct"), !endpoint.direct {
            report("direct", "'direct: false' is what holds anyway: remove it")
        }
        if endpoint.direct {
            if has("filter") {
                report(
                    "filter",
                    "'filter' is for streams that go on to a peer; what is dialled from here may be seen anyway"
                )
            }
            let others = [
                "hbone", "identity", "labels", "proxy", "token", "via", "viaIdentity", "ssh", "path", "reverse",
            ]
            for key in others where has(key) {
                report(key, "'\(key)' means nothing with 'direct: true', which dials without HBONE: remove one")
            }
            return
        }
        if has("proxyProtocol") {
            report(
                "proxyProtocol",
                "'proxyProtocol' is for 'direct: true'; peers say who asks by themselves: remove one"
            )
        }
        if has("tls") { report("tls", "'tls' is for 'direct: true'; the mesh has its own TLS: remove one") }
        if !has("hbone"), !has("via"), !has("ssh"), !endpoint.reverse {
            report(
                "match",
                "needs 'hbone' (where its HBONE server listens), 'via' (gateways on the way), 'ssh', 'reverse: true' or "
                    + "'direct: true'"
            )
        }
        ReverseDecoder(diagnostics: diagnostics).check(endpoint, mapping)
        tunnels.check(endpoint, mapping)
        GatewayCheck(diagnostics: diagnostics).check(endpoint, mapping)
        if has("identity"), !has("hbone"), !has("via"), !endpoint.reverse {
            report(
                "identity",
                "'identity' is who the server of 'hbone' must be, and without it nobody is asked: remove it"
            )
        }
        let needed: [PathPreference: [String]] = [
            .h2: ["hbone"], .h2ViaGateway: ["via"], .h2OverSSH: ["hbone", "ssh"], .ssh: ["ssh"],
        ]
        for key in needed[endpoint.path] ?? [] where !has(key) {
            if endpoint.path == .h2, has("via") { continue }
            report("path", "'path: \(endpoint.path.rawValue)' needs '\(key)'")
        }
    }
}

extension NodeConfiguration.BindAddress {
    /// Parses `1.2.3.4:port`, `[v6]:port` or `localhost:port`; the port may be 0.
    ///
    /// Throws ``Streams/StreamError`` with code `badRequest` and the reason.
    package init(parsing text: String) throws(StreamError) {
        let form = "'\(text.prefix(80))' is not an IP address and a port"
        guard let colon = text.lastIndex(of: ":") else {
            throw StreamError(.badRequest, "\(form): write 127.0.0.1:PORT, or 0.0.0.0:PORT for every interface")
        }
        let portText = text[text.index(after: colon)...]
        guard let port = UInt16(portText), portText == "\(port)" else {
            throw StreamError(.badRequest, "\(form): the port must be from 0 (any free one) to 65535")
        }
        var host = text[..<colon]
        let isBracketed = host.first == "[" && host.last == "]"
        if isBracketed { host = host.dropFirst().dropLast() }
        if host == "localhost" {
            self.init(address: .loopbackIPv4, port: port)
        } else if let address = IPAddress(host), isBracketed == host.contains(":") {
            self.init(address: address, port: port)
        } else if host.contains(":") {
            throw StreamError(.badRequest, "\(form): write an IPv6 address in brackets, [::1]:PORT")
        } else {
            throw StreamError(.badRequest, "\(form): write 127.0.0.1:PORT, or 0.0.0.0:PORT for every interface")
        }
    }
}
