import H2Transport
import HTTP1
import MeshIdentity

/// What holds for one listener that takes what the world sends. Immutable; a reload makes a new one.
final class IngressRules: Sendable {
    let settings: NodeConfiguration.Ingress
    let routes: RouteTable
    /// What it shows where it ends TLS.
    let server: TLSContext?

    /// - Throws: What is wrong with its credentials.
    init(_ listener: NodeConfiguration.Listener, own: Credential, trust: TrustBundleSet) throws {
        settings = listener.ingress
        routes = RouteTable(listener.ingress.routes)
        server = listener.protocol == .http ? nil : try Self.server(listener, own, trust)
    }

    private static func server(
        _ listener: NodeConfiguration.Listener,
        _ own: Credential,
        _ trust: TrustBundleSet
    ) throws -> TLSContext {
        let settings = listener.ingress
        var credentials = try settings.credentials.map { try CredentialDirectory($0).loadServer() }
        if credentials.isEmpty { credentials = [try ServerCredential(key: own.key, chain: own.chain)] }
        let clients: TLSContext.Clients =
            switch settings.clients {
            case .none: .none
            case .optional: .optional
            case .mesh: .required
            }
        // Bytes are anybody's protocol: a client may name it, and no answer is agreement enough.
        var options = TLSContext.Options(applicationProtocols: listener.protocol == .https ? ["http/1.1"] : [])
        options.handshakeTimeout = settings.timeouts.head
        return try TLSContext(serving: credentials, to: clients, trust: trust, options: options)
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
