package import MeshIdentity
package import MeshPaths
package import MeshPolicy
package import Platform
package import Streams

/// What a node is told to do: the YAML file of `bootstrap node --config`, decoded (`docs/configuration.md`).
public struct NodeConfiguration: Hashable, Sendable {
    /// The file it came from, for messages.
    public var file: String
    /// Path of the credential directory (`key.pem`, `cert-chain.pem`, `root-cert.pem`).
    package var identity: String
    package var listeners: [Listener]
    /// First match wins.
    package var endpoints: [Endpoint]
    /// What happens to a destination that no endpoint matches.
    package var unmatched: MeshRules.Unmatched
    /// `nil`: no `policy` key, so that only the default policy holds.
    package var policy: [AuthorizationPolicy]?
    /// Earlier names of the node's own trust domain, which rules may still have.
    package var aliases: [TrustDomain] = []
    /// Where the administration interface listens; `nil`: nowhere.
    package var admin: BindAddress?
    /// Where metrics are served; `nil`: nowhere.
    package var metrics: BindAddress?
    /// Who renews the node's certificate over the mesh; `nil`: nobody.
    package var renewal: RenewalSource?
    /// How long connections live, and what happens on them may take.
    package var connections: ConnectionSettings
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
    package struct Listener: Hashable, Sendable {
        /// Unique; printed in `ready NAME ADDRESS`.
        package var name: String
        package var bind: BindAddress
        package var `protocol`: ListenerProtocol
        /// Where `tcp` and `https` listeners lead.
        package var forwardTo: Authority?
        /// Credential directory of an `https` listener; `nil`: the node's own.
        package var credential: String?
        /// The file of users and hashed passwords of a `socks5` or `http-proxy` listener; `nil`: everybody who reaches
        /// it, which is this machine.
        package var users: String?
        /// What only a `transparent` listener has.
        package var transparency = Transparency()
        /// What rules of the kernel lead to it; nil: nothing is asked of them.
        package var capture: Capture?
        /// What only a `dns` listener has.
        package var names = NameSettings()
        package var position: SourcePosition?

        package init(
            name: String,
            bind: BindAddress,
            protocol: ListenerProtocol,
            forwardTo: Authority? = nil,
            credential: String? = nil,
            users: String? = nil,
            position: SourcePosition? = nil
        ) {
            self.name = name
            self.bind = bind
            self.protocol = `protocol`
            self.forwardTo = forwardTo
            self.credential = credential
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
        /// Ingress: TLS ends here, the connection goes to `forwardTo`.
        case https
        /// Passthrough by the server name of the ClientHello.
        case sni
    }

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
