import H2Transport
import HTTP1
import MeshIdentity

/// What holds for one listener that takes what the world sends. Immutable; a reload makes a new one.
final class IngressRules: Sendable {
    let settings: NodeConfiguration.Ingress
    let routes: RouteTable
    /// What it shows where it ends TLS.
    let server: TLSContext?
    private let kind: NodeConfiguration.ListenerProtocol
    /// As its files had them; none where it shows the node's own.
    private let credentials: [ServerCredential]

    /// - Throws: What is wrong with its credentials.
    init(_ listener: NodeConfiguration.Listener, own: Credential, trust: TrustBundleSet) throws {
        let directories = listener.protocol == .http ? [] : listener.ingress.credentials
        let credentials = try directories.map { try CredentialDirectory($0).loadServer() }
        settings = listener.ingress
        routes = RouteTable(listener.ingress.routes)
        kind = listener.protocol
        self.credentials = credentials
        server = try Self.server(listener.protocol, listener.ingress, credentials, own, trust)
    }

    /// The same, for another credential of the node: no file is read.
    init(_ other: IngressRules, own: Credential, trust: TrustBundleSet) throws {
        settings = other.settings
        routes = other.routes
        kind = other.kind
        credentials = other.credentials
        server = try Self.server(other.kind, other.settings, other.credentials, own, trust)
    }

    private static func server(
        _ kind: NodeConfiguration.ListenerProtocol,
        _ settings: NodeConfiguration.Ingress,
        _ credentials: [ServerCredential],
        _ own: Credential,
        _ trust: TrustBundleSet
    ) throws -> TLSContext? {
        if kind == .http { return nil }
        let shown = credentials.isEmpty ? [try ServerCredential(key: own.key, chain: own.chain)] : credentials
        let clients: TLSContext.Clients =
            switch settings.clients {
            case .none: .none
            case .optional: .optional
            case .mesh: .required
            }
        // Bytes are anybody's protocol: a client may name it, and no answer is agreement enough.
        var options = TLSContext.Options(applicationProtocols: kind == .https ? ["h2", "http/1.1"] : [])
        options.handshakeTimeout = settings.timeouts.head
        return try TLSContext(serving: shown, to: clients, trust: trust, options: options)
    }
}

/// Where requests go: the first route, in the order of the file, whose host and path match.
struct RouteTable: Sendable {
    private let routes: [NodeConfiguration.IngressRoute]
    /// The places of routes in their order.
    private var named: [String: [Int]] = [:]
    private var suffixes: [String: [Int]] = [:]
    private var anywhere: [Int] = []

    init(_ routes: [NodeConfiguration.IngressRoute]) {
        self.routes = routes
        for (index, route) in routes.enumerated() {
            switch route.host {
            case .any: anywhere.append(index)
            case .name(let name): named[name, default: []].append(index)
            case .suffix(let suffix): suffixes[suffix, default: []].append(index)
            }
        }
    }

    /// - Parameter host: Normalized; nil where the request names none.
    func route(host: String?, path: HTTPPath) -> NodeConfiguration.IngressRoute? {
        var best = first(anywhere, path)
        if let host {
            best = Self.earlier(best, first(named[host], path))
            var rest = host[...]
            while !suffixes.isEmpty, let dot = rest.firstIndex(of: ".") {
                best = Self.earlier(best, first(suffixes[String(rest[dot...])], path))
                rest = rest[rest.index(after: dot)...]
            }
        }
        return best.map { routes[$0] }
    }

    private func first(_ places: [Int]?, _ path: HTTPPath) -> Int? {
        places?.first { path.begins(with: routes[$0].path) }
    }

    private static func earlier(_ one: Int?, _ other: Int?) -> Int? {
        guard let one, let other else { return one ?? other }
        return min(one, other)
    }
}
