public import MeshPaths
public import MeshPolicy
public import Platform
public import Streams

/// What a node is told to do: the YAML file of `bootstrap node --config`, decoded (`docs/configuration.md`).
public struct NodeConfiguration: Hashable, Sendable {
    /// The file it came from, for messages.
    public var file: String
    /// Path of the credential directory (`key.pem`, `cert-chain.pem`, `root-cert.pem`).
    public var identity: String
    public var listeners: [Listener]
    /// First match wins.
    public var endpoints: [Endpoint]
    /// What happens to a destination that no endpoint matches.
    public var unmatched: MeshRules.Unmatched
    /// `nil`: no `policy` key, so that only the default policy holds.
    public var policy: [AuthorizationPolicy]?
    /// Where the administration interface listens; `nil`: nowhere.
    public var admin: BindAddress?
    /// Where metrics are served; `nil`: nowhere.
    public var metrics: BindAddress?
    /// Who renews the node's certificate over the mesh; `nil`: nobody.
    public var renewal: RenewalSource?
    /// How long connections live, and what happens on them may take.
    public var connections: ConnectionSettings
    /// Where the top-level keys stand in ``file``.
    package var positions: [String: SourcePosition] = [:]

    public init(
        file: String = "configuration",
        identity: String,
        listeners: [Listener],
        endpoints: [Endpoint] = [],
        unmatched: MeshRules.Unmatched = .deny,
        policy: [AuthorizationPolicy]? = nil,
        admin: BindAddress? = nil,
        metrics: BindAddress? = nil,
        renewal: RenewalSource? = nil,
        connections: ConnectionSettings = .defaults
    ) {
        self.renewal = renewal
        self.file = file
        self.identity = identity
        self.listeners = listeners
        self.endpoints = endpoints
        self.unmatched = unmatched
        self.policy = policy
        self.admin = admin
        self.metrics = metrics
        self.connections = connections
    }

    /// One element of `listeners`.
    public struct Listener: Hashable, Sendable {
        /// Unique; printed in `ready NAME ADDRESS`.
        public var name: String
        public var bind: BindAddress
        public var `protocol`: ListenerProtocol
        /// Where `tcp` and `https` listeners lead.
        public var forwardTo: Authority?
        /// Credential directory of an `https` listener; `nil`: the node's own.
        public var credential: String?
        public var position: SourcePosition?

        public init(
            name: String,
            bind: BindAddress,
            protocol: ListenerProtocol,
            forwardTo: Authority? = nil,
            credential: String? = nil,
            position: SourcePosition? = nil
        ) {
            self.name = name
            self.bind = bind
            self.protocol = `protocol`
            self.forwardTo = forwardTo
            self.credential = credential
            self.position = position
        }
    }

    public enum ListenerProtocol: String, CaseIterable, Hashable, Sendable {
        /// mTLS HTTP/2 CONNECT server.
        case hbone
        /// Whitebox: every connection goes to `forwardTo`.
        case tcp
        case socks5
        case httpProxy = "http-proxy"
        /// TPROXY or REDIRECT: the connection goes where it was going.
        case transparent
        /// Ingress: TLS ends here, the connection goes to `forwardTo`.
        case https
        /// Passthrough by the server name of the ClientHello.
        case sni
    }

    /// An IP address and a port to listen on; port 0 takes any free one.
    public struct BindAddress: Hashable, Sendable, CustomStringConvertible {
        public var address: IPAddress
        public var port: UInt16

        public init(address: IPAddress, port: UInt16) {
            self.address = address
            self.port = port
        }

        public var socketAddress: SocketAddress { SocketAddress(address, port: port) }

        /// `1.2.3.4:80` or `[::1]:80`, as ``Streams/SocketAddress`` writes it.
        public var description: String { address.isIPv4 ? "\(address):\(port)" : "[\(address)]:\(port)" }
    }
}
