import H2Transport
import MeshIdentity
import MeshPaths
import MeshPolicy
import SSHSignal
import Streams

extension PeerAccess {
    /// What an endpoint of the configuration says.
    ///
    /// - Parameters:
    ///   - own: This node's identity: an endpoint that names nobody expects its trust domain and namespace.
    ///   - warn: Told what the user should know about the SSH configuration.
    /// - Throws: ``SSHSignal/SSHConfigurationError`` or ``Streams/StreamError`` for the SSH login.
    init(
        _ endpoint: NodeConfiguration.Endpoint,
        own: SPIFFEID,
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
            areServers: true,
            expectation: endpoint.peer.expectation(own: own),
            login: login,
            sessions: endpoint.ssh?.sessions ?? PeerAccess.defaultSessions
        )
        resumable = endpoint.resumable
    }
}
