import H2Transport
public import MeshIdentity
public import MeshPolicy
public import Platform
import SSHSignal
public import Streams
import YAML

/// What a node would do with one stream: the policy rule that decides, and the route taken.
public struct Explanation: Sendable, CustomStringConvertible {
    public let request: PolicyEngine.Request
    public let decision: PolicyDecision
    public let route: Route
    /// For a route to another node: the transports of its endpoint that policy permits, best first.
    public let transports: [Transport]
    /// The node's own identity, if it is known.
    public let own: SPIFFEID?
    /// File of the configuration, for the places in it.
    public let file: String

    /// - `own`: identity of the node; `nil` if unknown, which leaves the default policy undecided for peers.
    /// - `ownAddresses`: the node's addresses, ``interfaceAddresses()`` on the node itself.
    public init(
        _ request: PolicyEngine.Request,
        configuration: NodeConfiguration,
        own: SPIFFEID?,
        ownAddresses: Set<IPAddress>
    ) {
        self.request = request
        self.own = own
        file = configuration.file
        let policy = PolicyEngine(configuration: configuration, own: own)
        decision = policy.decide(request)
        let router = Router(configuration: configuration, policy: policy, ownAddresses: ownAddresses)
        route = router.route(request.destination, from: request.source == .localUser ? .local : .peer)
        if case .mesh(let mesh) = route.action {
            transports = policy.permitted(mesh.endpoint.transports, for: request)
        } else {
            transports = []
        }
    }

    /// Whether policy allows the stream and it has a way to go.
    public var isAllowed: Bool {
        guard decision.isAllowed else { return false }
        return switch route.action {
        case .refused: false
        case .direct: true
        case .mesh: !transports.isEmpty
        }
    }

    /// `FILE:LINE:COLUMN` of the rule that decided.
    public var rulePlace: String? { decision.rule?.position.map { "\(file):\($0)" } }

    /// Who asks: a SPIFFE ID, or words.
    public var sourceDescription: String {
        switch request.source {
        case .peer(let peer): peer.description
        case .localUser: "local user"
        case .unauthenticated: "somebody without a mesh identity"
        }
    }

    /// What is done with the stream once it is allowed.
    public var routeDescription: String {
        switch route.action {
        case .refused(let error): return "refused: \(error.message)"
        case .direct(let target, let tls):
            let name = tls.map { " with TLS for \($0.serverName ?? target.host)" } ?? ""
            return "dial \(target)\(name) from here [\(route.reason)]"
        case .mesh(let mesh):
            let endpoint = mesh.endpoint
            if transports.isEmpty { return "none: policy permits no transport of this endpoint [\(route.reason)]" }
            let ways = transports.map { transport in
                switch transport {
                case .h2: "h2 to \(endpoint.hbone?.description ?? "?")"
                case .h2OverSSH: "h2-over-ssh by \(endpoint.ssh?.destination.description ?? "?")"
                case .ssh: "ssh by \(endpoint.ssh?.destination.description ?? "?")"
                }
            }
            let peer = own.map { endpoint.expectation(own: $0).description } ?? "this node's trust domain and namespace"
            return
                "\(ways.joined(separator: ", then ")), asking for \(mesh.authority), expecting \(peer) [\(route.reason)]"
        }
    }

    /// Five lines for a person.
    public var description: String {
        let place = rulePlace.map { " (\($0))" } ?? ""
        var lines = [
            "from    \(sourceDescription) at \(request.sourceIP), over \(request.transport)",
            "to      \(request.destination)",
            "policy  \(decision.reason)\(place)",
        ]
        lines += decision.notes.map { "        \($0)" }
        lines.append("route   \(routeDescription)")
        lines.append("result  \(isAllowed ? "allowed" : "denied")")
        return lines.joined(separator: "\n")
    }
}
