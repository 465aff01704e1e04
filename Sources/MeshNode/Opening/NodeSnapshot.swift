import H2Transport
import MeshIdentity
import MeshPaths
import MeshPolicy
import Platform
import Streams

/// Everything a node decides with: the configuration and what is derived from it and from the credential. Immutable; a
/// reload makes a new one, which each event loop takes over between two turns.
final class NodeSnapshot: Sendable {
    let configuration: NodeConfiguration
    let credential: Credential
    let planner: StreamPlanner
    let server: TLSContext
    let client: TLSContext
    /// The ways to each peer.
    let access: [PeerID: PeerAccess]
    /// What adds TLS to a direct connection.
    let egress: [DirectTLS: EgressTLS]
    /// What holds for the listeners that take what the world sends, by their names.
    let ingress: [String: IngressRules]
    /// Who may use the listeners that ask for a password, by their names.
    let passwords: [String: PasswordCheck]
    /// Who may use the listeners that ask for a token, by their names.
    let tokens: [String: TokenCheck]
    /// Where streams leave their lines; nil: nowhere.
    let accessLog: AccessLog?

    /// - Throws: What is wrong with the credential, with the SSH login of an endpoint, or with a file of users or keys.
    init(
        configuration: NodeConfiguration,
        credential: Credential,
        listenerAddresses: [String: NodeConfiguration.BindAddress] = [:],
        accessLog: AccessLog? = nil,
        metrics: H2Metrics? = nil,
        warn: @escaping @Sendable (String) -> Void
    ) throws {
        var configuration = configuration
        configuration.connections.metrics = metrics
        self.configuration = configuration
        self.credential = credential
        self.accessLog = accessLog
        planner = StreamPlanner(
            configuration.rules(listenerAddresses: listenerAddresses),
            own: credential.id,
            ownAddresses: Set(InterfaceAddress.all().map(\.address))
        )
        let trust = TrustBundleSet(credential.bundle)
        let settings = configuration.connections
        server = try TLSContext(
            role: .server,
            credential: credential,
            trust: trust,
            options: settings.tls(for: .server)
        )
        client = try TLSContext(
            role: .client,
            credential: credential,
            trust: trust,
            options: settings.tls(for: .client)
        )
        var access: [PeerID: PeerAccess] = [:]
        for endpoint in configuration.endpoints where !endpoint.transports.isEmpty {
            access[endpoint.peer.id] = try PeerAccess(endpoint, own: credential.id, warn: warn)
        }
        self.access = access
        var egress: [DirectTLS: EgressTLS] = [:]
        for endpoint in configuration.endpoints {
            guard endpoint.direct, let tls = endpoint.tls, egress[tls] == nil else { continue }
            do throws(StreamError) {
                egress[tls] = try EgressTLS(DirectTLSFiles(loading: tls), settings: settings)
            } catch {
                throw StreamError(error.code, "endpoint '\(endpoint.match)': 'tls': \(error.message)")
            }
        }
        self.egress = egress
        var passwords: [String: PasswordCheck] = [:]
        for listener in configuration.listeners {
            if let file = listener.users { passwords[listener.name] = PasswordCheck(try UserFile(loading: file)) }
        }
        self.passwords = passwords
        var tokens: [String: TokenCheck] = [:]
        for listener in configuration.listeners {
            if let settings = listener.tokens {
                tokens[listener.name] = try TokenCheck(settings, of: listener.name)
            }
        }
        self.tokens = tokens
        var ingress: [String: IngressRules] = [:]
        for listener in configuration.listeners where listener.protocol.isIngress {
            ingress[listener.name] = try IngressRules(listener, own: credential, trust: trust)
        }
        self.ingress = ingress
    }
}
