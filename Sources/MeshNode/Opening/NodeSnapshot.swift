import H2Transport
import MeshIdentity
import MeshPaths
import MeshPolicy
import Platform
import Streams

/// Everything a node decides with: the configuration and what is derived from it and from the credential. Immutable; a
/// reload makes a new one, which each event loop takes over between two turns.
final class NodeSnapshot: Sendable {
    /// With the policies that the directory adds, and without its endpoints.
    let configuration: NodeConfiguration
    /// Without what it adds.
    let own: NodeConfiguration
    /// What holds beside it.
    let directory: DirectoryContent?
    /// With what came with it.
    let identity: NodeIdentity
    let planner: StreamPlanner
    /// Who vouches for members of other trust domains.
    let foreign: [TrustBundleFile]
    let server: TLSContext
    let client: TLSContext
    /// The same as ``server``, for HBONE servers that also take peers who cannot be dialled.
    let inbound: TLSContext
    /// For connections to gateways, which serve this node's peers; nil: there are none.
    let reverse: TLSContext?
    /// The ways to each peer of the node's own file, and to those of a directory that take more than its word.
    private let access: [PeerID: PeerAccess]
    private let marks: GatewayMarks
    /// A directory has changed, and nothing else: peers that it has no more keep their streams.
    let keepsPeers: Bool
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
    /// Where its HBONE servers listen that ask for a certificate of the mesh and nothing more: what the kernel has
    /// chosen where the configuration has port 0.
    let meshPorts: [UInt16]
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
        identity: NodeIdentity,
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
        let content = directory?.content
        self.directory = content
        keepsPeers = kept != nil
        var configuration = configuration.addingPolicies(of: directory)
        configuration.connections.metrics = metrics
        self.configuration = configuration
        self.identity = identity
        let credential = identity.credential
        self.accessLog = accessLog
        meshPorts = configuration.listeners.filter { $0.protocol == .hbone && $0.gateway == nil }
            .map { (listenerAddresses[$0.name] ?? $0.bind).port }
        let baggage = configuration.labels.baggage.isEmpty ? nil : configuration.labels.baggage.description
        self.baggage = baggage
        answer = baggage.map { ["baggage": $0] } ?? [:]
        var rules = configuration.rules(listenerAddresses: listenerAddresses, serviceAddresses: serviceAddresses)
        if let content { rules.shared = content.table }
        let hasSamePolicies = kept.map { kept in
            kept.credential.id == credential.id && kept.configuration.policy == configuration.policy
        }
        planner = StreamPlanner(
            rules,
            own: credential.id,
            ownAddresses: Set(InterfaceAddress.all().map(\.address)),
            withPoliciesOf: hasSamePolicies == true ? kept?.planner : nil
        )
        let ownDomain = credential.id.trustDomain
        foreign = try kept?.foreign ?? configuration.trust.map { try $0.load(own: ownDomain) }
        var trust = try directory?.trust(beside: credential.bundle) ?? TrustBundleSet(credential.bundle)
        for bundle in identity.federated { trust.insert(bundle) }
        // The node's own file wins.
        for file in foreign { trust.insert(file.bundle) }
        let settings = configuration.connections
        let same = kept.flatMap { kept in
            let isSame = kept.identity.isSame(as: identity) && DirectoryContent.haveSameTrust(kept.directory, content)
            return isSame ? kept : nil
        }
        if let same {
            // Whoever has verified with them has not to do so again.
            (server, client, inbound, reverse) = (same.server, same.client, same.inbound, same.reverse)
        } else {
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
            var swapped = settings.tls(for: .server)
            swapped.applicationProtocols.append(ReverseProtocol.name)
            inbound = try TLSContext(role: .server, credential: credential, trust: trust, options: swapped)
            if configuration.reverse.isEmpty {
                reverse = nil
            } else {
                swapped.applicationProtocols = [ReverseProtocol.name]
                reverse = try TLSContext(role: .client, credential: credential, trust: trust, options: swapped)
            }
        }
        let marks = GatewayMarks(configuration, own: credential.id)
        self.marks = marks
        var access: [PeerID: PeerAccess] = [:]
        let special = content?.special ?? []
        // Of a directory that has changed, most is as it was. A peer that has the same ID may have other servers.
        let known = kept.map { Set($0.own.endpoints + ($0.directory?.special ?? [])) } ?? []
        for endpoint in configuration.endpoints + special where !endpoint.transports.isEmpty {
            let id = endpoint.peer.id
            // The first that leads there counts.
            guard access[id] == nil else { continue }
            if known.contains(endpoint), let present = kept?.access[id] {
                access[id] = present
            } else {
                access[id] = try PeerAccess(endpoint, own: credential.id, marks: marks, settings: settings, warn: warn)
            }
        }
        self.access = access
        var egress = kept?.egress ?? [:]
        for endpoint in (kept == nil ? configuration.endpoints : []) + special {
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
        var ingress =
            try same?.ingress
            ?? (kept?.ingress ?? [:]).mapValues { try IngressRules($0, own: credential, trust: trust) }
        for listener in configuration.listeners where kept == nil && listener.protocol.isIngress {
            ingress[listener.name] = try IngressRules(listener, own: credential, trust: trust)
        }
        // Likewise: the routes of before would be there without the token that they asked for.
        for name in left where ingress[name] == nil && !names.contains(name) {
            ingress[name] = try previous?.ingress[name].map { try IngressRules($0, own: credential, trust: trust) }
        }
        self.ingress = ingress
        var gateways =
            try same?.gateways
            ?? (kept?.gateways ?? [:]).mapValues { try GatewayRules($0, own: credential, trust: trust) }
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

    var credential: Credential { identity.credential }

    /// The ways to a peer; nil: nothing leads to it.
    func access(to id: PeerID) -> PeerAccess? {
        if let access = access[id] { return access }
        guard let endpoint = directory?.endpoint(to: id), !endpoint.transports.isEmpty else { return nil }
        // Nothing of it is in files: what is, is special.
        let settings = configuration.connections
        return try? PeerAccess(endpoint, own: credential.id, marks: marks, settings: settings) { _ in }
    }

    /// Whether the ways to a peer may be others than by `previous`, which this one was made after.
    func hasNews(of id: PeerID, since previous: NodeSnapshot) -> Bool {
        guard keepsPeers, access[id] == nil, let endpoint = directory?.table.endpoint(to: id)?.endpoint else {
            return true
        }
        // Of a directory that has changed, most is as it was: the same objects.
        guard case .peer(let peer) = endpoint.way,
            case .peer(let former) = previous.directory?.table.endpoint(to: id)?.endpoint.way
        else { return true }
        return peer !== former
    }

    /// Whether any endpoint leads to a peer.
    func leads(to id: PeerID) -> Bool { access[id] != nil || directory?.table.endpoint(to: id) != nil }

    /// Whether a filter may see a stream of `plan` that came from one peer and goes on to another: neither of its ends
    /// is here, and whoever runs the node has to say so.
    func letsFiltersSee(_ plan: StreamPlan) -> Bool {
        guard let number = plan.route.endpoint else { return false }
        let own = configuration.endpoints
        if number < own.count { return own[number].letsFiltersSee }
        return directory?.endpoint(number: number - own.count)?.letsFiltersSee ?? false
    }

    /// Who may hold connections to this node.
    var holders: Set<SPIFFEID> {
        let all = configuration.endpoints + (directory?.special ?? [])
        return Set(all.filter(\.reverse).flatMap(\.identities))
    }

    /// The same, to look a destination up.
    var tables: [EndpointTable] {
        [EndpointTable([EndpointBlock(configuration.endpoints.map(\.rule))])] + (directory.map { [$0.table] } ?? [])
    }

    /// Where streams go, in order: those of the node's own file, then those of the directory.
    var rules: [MeshPolicy.Endpoint] {
        configuration.endpoints.map(\.rule) + (directory?.table.endpoints.map { $0 } ?? [])
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
