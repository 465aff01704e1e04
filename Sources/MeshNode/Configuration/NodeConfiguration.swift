package import MeshDirectory
package import MeshIdentity
package import MeshPaths
package import MeshPolicy
package import Platform
package import Streams
import YAML

/// What a node is told to do: the YAML file of `bootstrap node --config`, decoded (`docs/configuration.md`).
public struct NodeConfiguration: Hashable, Sendable {
    /// The file it came from, for messages.
    public var file: String
    package var identity: IdentitySource
    package var listeners: [Listener]
    /// First match wins.
    package var endpoints: [Endpoint]
    /// What happens to a destination that no endpoint matches.
    package var unmatched: MeshRules.Unmatched
    /// `nil`: no `policy` key, so that only the default policy holds.
    package var policy: [AuthorizationPolicy]?
    /// Other trust domains whose members are known here.
    package var trust: [ForeignTrust] = []
    /// Earlier names of the node's own trust domain, which rules may still have.
    package var aliases: [TrustDomain] = []
    /// Where its HBONE listener is reached beside its own addresses: told to operators (`docs/protocol.md` 1.7).
    package var advertise: [Authority] = []
    /// What the node says about itself.
    package var labels = Labels()
    /// Where the administration interface listens; `nil`: nowhere, or at ``adminSocket``.
    package var admin: BindAddress?
    /// The path of the administration's Unix socket; `nil`: nowhere, or at ``admin``.
    package var adminSocket: String?
    /// Where metrics are served; `nil`: nowhere.
    package var metrics: BindAddress?
    /// Where each stream leaves a line; `nil`: nowhere.
    package var accessLog: AccessLogSettings?
    /// Gateways that this node holds connections to, so that it can be reached through them.
    package var reverse: [ReverseGateway] = []
    /// Who renews the node's certificate over the mesh; `nil`: nobody.
    package var renewal: RenewalSource?
    /// How long connections live, and what happens on them may take.
    package var connections: ConnectionSettings
    /// Where more endpoints, policies, bundles and revocations come from; `nil`: nowhere.
    package var directory: DirectorySettings?
    /// What the file says; `nil` where a program made the configuration.
    var document: YAMLNode?
    /// Where the top-level keys stand in ``file``.
    package var positions: [String: SourcePosition] = [:]

    package init(
        file: String = "configuration",
        identity: String,
        listeners: [Listener],
        endpoints: [Endpoint] = [],
        unmatched: MeshRules.Unmatched = .deny,
        policy: [AuthorizationPolicy]? = nil,
        admin: BindAddress? = nil,
        metrics: BindAddress? = nil,
        accessLog: AccessLogSettings? = nil,
        renewal: RenewalSource? = nil,
        connections: ConnectionSettings = .defaults
    ) {
        self.renewal = renewal
        self.file = file
        self.identity = .directory(identity)
        self.listeners = listeners
        self.endpoints = endpoints
        self.unmatched = unmatched
        self.policy = policy
        self.admin = admin
        self.metrics = metrics
        self.accessLog = accessLog
        self.connections = connections
    }

    /// Where the node has its credential from.
    package enum IdentitySource: Hashable, Sendable {
        /// Path of the credential directory (`key.pem`, `cert-chain.pem`, `root-cert.pem`).
        case directory(String)
        /// An agent on this machine, which renews it, too.
        case workloadAPI(WorkloadAPISettings)

        package var directory: String? { if case .directory(let path) = self { path } else { nil } }

        var workloadAPI: WorkloadAPISettings? { if case .workloadAPI(let settings) = self { settings } else { nil } }
    }

    /// One element of `listeners`.
    package struct Listener: Hashable, Sendable {
        /// Unique; printed in `ready NAME ADDRESS`.
        package var name: String
        package var bind: BindAddress
        package var `protocol`: ListenerProtocol
        /// Where `tcp` and `tls` listeners lead.
        package var forwardTo: Authority?
        /// The file of users and hashed passwords of a `socks5` or `http-proxy` listener; `nil`: everybody who reaches
        /// it, which is this machine.
        package var users: String?
        /// What only a `transparent` listener has.
        package var transparency = Transparency()
        /// What rules of the kernel lead to it; nil: nothing is asked of them.
        package var capture: Capture?
        /// What only `tls`, `http` and `https` listeners have.
        package var ingress = Ingress()
        /// What makes a gateway of an `hbone` listener, for clients that are no members of the mesh; nil: only those
        /// come in, and it is not asked for more.
        package var gateway: GatewaySettings?
        /// Load balancers that say in a header of the PROXY protocol who their clients are, and nobody else connects;
        /// nil: clients connect themselves.
        package var trustedProxies: [CIDR]?
        /// Whose tokens let a request in, of an `http`, `https` or `http-proxy` listener; nil: nobody looks for one.
        package var tokens: TokenSettings?
        /// What only a `dns` listener has.
        package var names = NameSettings()
        package var position: SourcePosition?

        package init(
            name: String,
            bind: BindAddress,
            protocol: ListenerProtocol,
            forwardTo: Authority? = nil,
            users: String? = nil,
            position: SourcePosition? = nil
        ) {
            self.name = name
            self.bind = bind
            self.protocol = `protocol`
            self.forwardTo = forwardTo
            self.users = users
            self.position = position
        }
    }

    package enum ListenerProtocol: String, CaseIterable, Hashable, Sendable {
        /// mTLS HTTP/2 CONNECT server.
        case hbone
        /// Whitebox: every connection goes to `forwardTo`.
        case tcp
        /// SOCKS 5, 4 and 4a: every connection says where it goes.
        case socks5
        /// HTTP/1.1 proxy: CONNECT and absolute-form requests.
        case httpProxy = "http-proxy"
        /// TPROXY or REDIRECT: the connection goes where it was going.
        case transparent
        /// Names of the mesh have addresses there, which ``transparent`` knows the names of.
        case dns
        /// Ingress: TLS ends here, and the bytes go to `forwardTo`.
        case tls
        /// Ingress: each request goes where `routes` say.
        case http
        /// The same in TLS.
        case https
        /// Passthrough by the server name of the ClientHello.
        case sni

        /// Whether it takes what the world sends, and ends there what the world speaks.
        package var isIngress: Bool { self == .tls || self == .http || self == .https }
    }

    /// The key `accessLog`.
    package struct AccessLogSettings: Hashable, Sendable, CustomStringConvertible {
        /// The file; `nil`: standard output.
        package var path: String?

        package init(path: String?) { self.path = path }

        package var description: String { path ?? "standard output" }
    }

    /// Whether anybody can ask what the node does.
    var hasServices: Bool { admin != nil || adminSocket != nil || metrics != nil }

    /// An IP address and a port to listen on; port 0 takes any free one.
    package struct BindAddress: Hashable, Sendable, CustomStringConvertible {
        package var address: IPAddress
        package var port: UInt16

        package init(address: IPAddress, port: UInt16) {
            self.address = address
            self.port = port
        }

        package var socketAddress: SocketAddress { SocketAddress(address, port: port) }

        /// `1.2.3.4:80` or `[::1]:80`, as ``Streams/SocketAddress`` writes it.
        package var description: String { address.isIPv4 ? "\(address):\(port)" : "[\(address)]:\(port)" }
    }
}
