import H2Transport
import MeshPaths
import MeshPolicy
import Platform
import Streams
import YAML

/// Decodes what says how an endpoint is reached through infrastructure that is not trusted: `labels`, `proxy` and
/// `token`.
struct TunnelDecoder {
    static let endpointKeys = ["labels", "proxy", "token"]
    let diagnostics: Diagnostics
    /// From the file's directory.
    let resolve: (String) -> String

    func decode(_ mapping: MappingDecoder, into endpoint: inout NodeConfiguration.Endpoint) {
        if let labels = mapping["labels"] { endpoint.tunnel = method(labels) }
        if let proxy = mapping["proxy"] { endpoint.proxy = self.proxy(proxy) }
        if let token = mapping["token"] { endpoint.token = self.token(token) }
    }

    private func method(_ node: YAMLNode) -> NodeConfiguration.TunnelMethod? {
        guard let labels = MappingDecoder(node, what: "'labels'", keys: ["tun"], required: ["tun"], diagnostics) else {
            return nil
        }
        return labels.choice("tun", of: NodeConfiguration.TunnelMethod.self)
    }

    private func proxy(_ node: YAMLNode) -> DirectTLS? {
        guard let mapping = MappingDecoder(node, what: "'proxy'", keys: ["serverName", "roots"], diagnostics) else {
            return nil
        }
        return DirectTLS(
            serverName: mapping.value("serverName") { try Authority(host: $0, port: 1).host },
            roots: mapping.string("roots").map(resolve)
        )
    }

    private func token(_ node: YAMLNode) -> ProxyTokenSource? {
        let keys = ["file", "exec", "static"]
        guard let mapping = MappingDecoder(node, what: "'token'", keys: keys, diagnostics) else { return nil }
        if mapping["static"] != nil {
            // Not even a part of it is quoted.
            diagnostics.report(
                "'token': a token is a secret, and --print-config and the administration page show what is written here: put "
                    + "it in a file that only this node reads, and write 'token: {file: PATH}'",
                at: mapping.position(of: "static")
            )
            return nil
        }
        guard !mapping.hasUnknownKeys else { return nil }
        guard (mapping["file"] == nil) != (mapping["exec"] == nil) else {
            diagnostics.report(
                "'token' is either a file that somebody keeps fresh or a program that prints one: write one of "
                    + "{file: PATH} and {exec: [PROGRAM, ARGUMENT]}",
                at: node.position
            )
            return nil
        }
        if mapping["file"] != nil { return mapping.string("file").map { .file(resolve($0)) } }
        let command = mapping["exec"]?.list("'exec'", diagnostics) { $0.string("a word of 'exec'", diagnostics) }
        guard var command, let program = command.first, !program.isEmpty else {
            if command?.isEmpty == true || command?.first == "" {
                diagnostics.report("'exec' needs a program: write [PROGRAM, ARGUMENT]", at: node.position)
            }
            return nil
        }
        // Without a slash, it is found in PATH.
        if program.contains("/") { command[0] = resolve(program) }
        return .program(command)
    }

    /// Keys that contradict each other, or mean nothing without another.
    func check(_ endpoint: NodeConfiguration.Endpoint, _ mapping: MappingDecoder) {
        let has = { mapping[$0] != nil }
        let report = { (key: String, message: String) in
            diagnostics.report("endpoint '\(endpoint.match)': \(message)", at: mapping.position(of: key))
        }
        guard has("labels") else {
            for key in ["token", "proxy"] where has(key) {
                report(key, "'\(key)' is for the proxy of 'labels: {tun: …}': add that")
            }
            return
        }
        guard has("hbone") else { return report("labels", "'labels' needs 'hbone', the server it leads to") }
        if endpoint.path == .h2OverSSH {
            report(
                "path",
                "'path: \(endpoint.path.rawValue)' leads to the peer's own server, and 'hbone' is the proxy's: remove one"
            )
        }
        let hosts = Set(endpoint.hbone.map(\.host))
        if endpoint.proxy?.serverName == nil, hosts.count > 1 {
            report(
                "hbone",
                "the proxy has several names here, and its certificate one: add 'proxy: {serverName: NAME}'"
            )
        }
    }
}

extension ProxyTokenSource {
    /// The file that must be there; nil: none.
    var watchedFile: String? { if case .file(let path) = self { path } else { nil } }
}

extension NodeConfiguration.Endpoint {
    /// What its ``proxy`` must show: whom it vouches for, and by whose word; nil where no proxy leads to it.
    var proxyTLS: (name: String, files: DirectTLS)? {
        guard tunnel != nil, let first = hbone.first else { return nil }
        return (proxy?.serverName ?? first.host, proxy ?? DirectTLS())
    }

    /// Everything about the way there that is not in other keys, for telling one peer from another.
    var tunnelFacts: [String] {
        guard let tunnel, let proxyTLS else { return [] }
        let token =
            switch self.token {
            case .file(let path)?: "file \(path)"
            case .program(let command)?: "exec \(command)"
            case nil: "none"
            }
        return [
            "tun \(tunnel.rawValue)", "proxies \(hbone)", "name \(proxyTLS.name)",
            "roots \(proxyTLS.files.roots ?? "")",
            "token \(token)",
        ]
    }
}
