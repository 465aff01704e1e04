import H2Transport
import MeshIdentity
import MeshPaths
import MeshPolicy
import Platform
import SSHSignal
import Streams

extension PeerAccess {
    /// What an endpoint of the configuration says.
    ///
    /// - Parameters:
    ///   - own: This node's identity: an endpoint that names nobody expects its trust domain and namespace.
    ///   - marks: What the node says on ways through gateways.
    ///   - settings: Of its connections.
    ///   - warn: Told what the user should know about the SSH configuration.
    /// - Throws: ``SSHSignal/SSHConfigurationError`` or ``Streams/StreamError`` for the SSH login.
    init(
        _ endpoint: NodeConfiguration.Endpoint,
        own: SPIFFEID,
        marks: GatewayMarks = GatewayMarks(),
        settings: ConnectionSettings,
        warn: @escaping @Sendable (String) -> Void
    ) throws {
        let login = try endpoint.ssh.map { access in
            try SSHLogin(
                to: try Destination(parsing: access.destination.description),
                arguments: SSHArguments(
                    configurationFile: access.config,
                    options: access.knownHosts.map { ["UserKnownHostsFile=\($0)"] } ?? [],
                    identityFiles: access.identityFile.map { [$0] } ?? [],
                    engine: access.engine
                ),
                // A daemon has nobody to ask.
                prompts: SSHLogin.Prompts(warn: warn)
            )
        }
        self.init(
            name: endpoint.match.description,
            transports: endpoint.transports,
            hbone: endpoint.hbone,
            holders: endpoint.identities,
            areServers: true,
            gateways: endpoint.via.enumerated().map { index, address in
                Gateway(address, expecting: endpoint.gatewayPeer(index).expectation(own: own))
            },
            single: endpoint.single,
            expectation: endpoint.peer.expectation(own: own),
            login: login,
            sessions: endpoint.ssh?.sessions ?? PeerAccess.defaultSessions
        )
        self.marks = marks
        resumable = endpoint.resumable
        guard let tunnel = endpoint.tunnel, let (proxyName, files) = endpoint.proxyTLS else { return }
        do throws(StreamError) {
            var options = TLSContext.Options(applicationProtocols: ["h2"])
            options.handshakeTimeout = settings.handshakeTimeout
            proxy = ProxyAccess(
                addresses: endpoint.hbone,
                name: proxyName,
                method: tunnel == .post ? .post : .connect,
                context: try TLSContext(
                    server: DirectTLSFiles(loading: files).verifier,
                    versions: .from12,
                    options: options
                ),
                token: endpoint.token
            )
        } catch {
            throw StreamError(error.code, "endpoint '\(endpoint.match)': 'proxy': \(error.message)")
        }
        for index in ways.indices where ways[index].id.transport == .h2 { ways[index].reach = .proxy }
    }
}

extension GatewayMarks {
    /// - Parameter own: This node's identity.
    init(_ configuration: NodeConfiguration, own: SPIFFEID) {
        self.init()
        let labels = configuration.labels
        if !labels.baggage.isEmpty { outer.append("baggage", labels.baggage.description) }
        // As Istio's gateways say it: for what comes in from outside, a waypoint behind the next gateway is for that
        // one to choose.
        if configuration.listeners.contains(where: \.protocol.isIngress) {
            outer.append("x-istio-source", "gateway")
            inner.append("x-istio-source", "gateway")
        }
        if let network = labels.network { inner.append("x-forwarded-network", network) }
        trail = HopTrail().field(from: .loopbackIPv4, through: own)
    }
}
