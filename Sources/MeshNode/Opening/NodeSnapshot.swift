import H2Transport
import MeshIdentity
import MeshPaths
import MeshPolicy
import Platform
import Streams

/// Everything a node decides with: the configuration and what is derived from it and from the credential. Immutable; a
/// reload makes a new one, which each event loop takes over between two turns.
final class NodeSnapshot: Sendable {
    /// With what the directory adds.
    let configuration: NodeConfiguration
    /// Without it.
    let own: NodeConfiguration
    let credential: Credential
    let planner: StreamPlanner
    /// Who vouches for members of other trust domains.
    let foreign: [TrustBundleFile]
    let server: TLSContext
    let client: TLSContext
    /// The ways to each peer.
    let access: [PeerID: PeerAccess]
    /// What adds TLS to a direct connection.
    let egress: [DirectTLS: EgressTLS]
    /// What holds for the listeners that take what the world sends, by their names.
    let ingress: [String: IngressRules]
    /// What holds for the listeners of protocol hbone whose clients need not be members of the mesh, by their names.
    let gateways: [String: GatewayRules]
    /// Who may use the listeners that ask for a password, by their names.
    let passwords: [String: PasswordCheck]
    /// Who may use the listeners that ask for a token, by their names.
    let tokens: [String: TokenCheck]
    /// Where streams leave their lines; nil: nowhere.
    let accessLog: AccessLog?
    /// What the node says about itself; nil: nothing.
    let baggage: String?
    /// The same, for answers.
    let answer: HeaderFields

    /// - Parameters:
    ///   - directory: What holds beside the configuration.
    ///   - keyRings: The keys that are fetched, of all issuers.
    ///   - previous: What held before: connections that its listeners have accepted go on as they were.
    ///   - kept: Of the same configuration: what its files had said stays, and none is read.
    /// - Throws: What is wrong with the credential, with the bundle of another trust domain, with the SSH login of an
    ///   endpoint, or with a file of users or keys.
    init(
        configuration: NodeConfiguration,
        directory: DirectoryInForce? = nil,
        credential: Credential,
        listenerAddresses: [String: NodeConfiguration.BindAddress] = [:],
        serviceAddresses: [String: NodeConfiguration.BindAddress] = [:],
        accessLog: AccessLog? = nil,
        metrics: H2Metrics? = nil,
        keyRings: TokenKeyRings = TokenKeyRings(),
        after previous: NodeSnapshot? = nil,
        keeping kept: NodeSnapshot? = nil,
        warn: @escaping @Sendable (String) -> Void
    ) throws {
        own = configuration
        var configuration = configuration.adding(directory)
        configuration.connections.metrics = metrics
        self.configuration = configuration
        self.credential = credential
        self.accessLog = accessLog
        let baggage = configuration.labels.baggage.isEmpty ? nil : configuration.labels.baggage.description
        self.baggage = baggage
        answer = baggage.map { ["baggage": $0] } ?? [:]
        planner = StreamPlanner(
            configuration.rules(listenerAddresses: listenerAddresses, serviceAddresses: serviceAddresses),
            own: credential.id,
            ownAddresses: Set(InterfaceAddress.all().map(\.address))
        )
        let ownDomain = credential.id.trustDomain
        foreign = try kept?.foreign ?? configuration.trust.map { try $0.load(own: ownDomain) }
        var trust = try directory?.trust(beside: credential.bundle) ?? TrustBundleSet(credential.bundle)
        // The node's own file wins.
        for file in foreign { trust.insert(file.bundle) }
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
        let marks = GatewayMarks(configuration, own: credential.id)
        var access = kept?.access ?? [:]
        let known = Set(kept?.configuration.endpoints ?? [])
        for endpoint in configuration.endpoints where !endpoint.transports.isEmpty {
            let id = endpoint.peer.id
            // Of a directory that has changed, most is as it was. A peer that has the same ID may have other servers.
            if access[id] != nil && known.contains(endpoint) { continue }
            access[id] = try PeerAccess(endpoint, own: credential.id, marks: marks, settings: settings, warn: warn)
        }
        self.access = access
        var egress = kept?.egress ?? [:]
        for endpoint in configuration.endpoints where kept == nil || endpoint.source != nil {
            guard endpoint.direct, let tls = endpoint.tls, egress[tls] == nil else { continue }
            do throws(StreamError) {
                egress[tls] = try EgressTLS(DirectTLSFiles(loading: tls), settings: settings)
            } catch {
                throw StreamError(error.code, "endpoint '\(endpoint.match)': 'tls': \(error.message)")
            }
        }
        self.egress = egress
        var passwords = kept?.passwords ?? [:]
        for listener in configuration.listeners where kept == nil {
            if let file = listener.users { passwords[listener.name] = PasswordCheck(try UserFile(loading: file)) }
        }
        // Never for a name that the configuration has: that one would ask for no password any more.
        let left = previous?.left(by: configuration) ?? []
        let names = Set(configuration.listeners.map(\.name))
        for name in left where !names.contains(name) { passwords[name] = previous?.passwords[name] }
        self.passwords = passwords
        var tokens = kept?.tokens ?? [:]
        for listener in configuration.listeners where kept == nil {
            if let settings = listener.tokens {
                tokens[listener.name] = try TokenCheck(settings, of: listener.name, keyRings)
            }
        }
        for name in left where !names.contains(name) { tokens[name] = previous?.tokens[name] }
        self.tokens = tokens
        var ingress = try (kept?.ingress ?? [:]).mapValues { try IngressRules($0, own: credential, trust: trust) }
        for listener in configuration.listeners where kept == nil && listener.protocol.isIngress {
            ingress[listener.name] = try IngressRules(listener, own: credential, trust: trust)
        }
        // Likewise: the routes of before would be there without the token that they asked for.
        for name in left where ingress[name] == nil && !names.contains(name) {
            ingress[name] = try previous?.ingress[name].map { try IngressRules($0, own: credential, trust: trust) }
        }
        self.ingress = ingress
        var gateways = try (kept?.gateways ?? [:]).mapValues { try GatewayRules($0, own: credential, trust: trust) }
        for listener in configuration.listeners where kept == nil {
            guard let gateway = listener.gateway else { continue }
            gateways[listener.name] = try GatewayRules(
                gateway,
                own: credential,
                trust: trust,
                options: settings.tls(for: .server)
            )
        }
        for name in left where gateways[name] == nil && !names.contains(name) {
            gateways[name] = try previous?.gateways[name].map { try GatewayRules($0, own: credential, trust: trust) }
        }
        self.gateways = gateways
    }

    /// Listeners whose connections may outlast them: those that this configuration has, and, where the other one has
    /// the same names, those that this one has kept of the one before. So what is kept is never more than one change
    /// of listeners leaves, and a reload for another reason does not end it.
    private func left(by other: NodeConfiguration) -> Set<String> {
        let names = Set(configuration.listeners.map(\.name))
        guard names == Set(other.listeners.map(\.name)) else { return names }
        return names.union(ingress.keys).union(passwords.keys).union(tokens.keys).union(gateways.keys)
    }
}
