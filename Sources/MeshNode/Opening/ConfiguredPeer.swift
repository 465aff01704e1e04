package import H2Transport
import MeshIdentity
package import MeshPaths
package import MeshPolicy
package import Platform
package import Streams

/// The peer that leads to a destination by a node's configuration, as a user of the node would reach it; for who goes
/// its ways without a node that runs.
package struct ConfiguredPeer: Sendable {
    package let access: PeerAccess
    /// With the node's credential.
    package let context: TLSContext
    /// What is asked for at the peer.
    package let authority: Authority
    package let settings: ConnectionSettings
    private let plan: StreamPlan

    /// - Parameters:
    ///   - destination: As a client of the node names it.
    ///   - configuration: Of the node.
    ///   - file: Where it was read from.
    ///   - warn: Told what the user should know.
    /// - Throws: ``Streams/StreamError`` where no peer leads there: it is dialled from the node, or not reached at all;
    ///   what is wrong with the credential, or with a file that the configuration names.
    package init(
        to destination: Authority,
        by configuration: NodeConfiguration,
        file: String,
        warn: @escaping @Sendable (String) -> Void
    ) async throws {
        let identity =
            switch configuration.identity {
            case .directory(let path): NodeIdentity(credential: try CredentialDirectory(path).load())
            case .workloadAPI(let settings):
                try await WorkloadAPI(settings: settings).first(within: settings.startTimeout, warn: warn).identity
            }
        let snapshot = try NodeSnapshot(
            configuration: configuration,
            directory: configuration.knownDirectory(beside: file, bundle: identity.credential.bundle, refused: warn),
            identity: identity,
            warn: warn
        )
        plan = snapshot.planner.plan(
            StreamRequest(
                source: .localUser,
                sourceIP: .loopbackIPv4,
                transport: nil,
                destination: destination,
                now: WallClock.system.seconds
            )
        )
        guard case .mesh(let mesh) = plan.route.action, let access = snapshot.access(to: mesh.peer.id) else {
            let reason = plan.route.refusal?.message ?? "it is dialled from the node: no peer leads there"
            throw StreamError(.badRequest, "\(destination): \(reason)")
        }
        self.access = access
        context = snapshot.client
        authority = mesh.authority
        settings = snapshot.configuration.connections
    }

    /// Why policy lets no user of the node take that path; nil if it does.
    package func refusal(over path: PathID) -> StreamError? {
        plan.refusal(over: PathID(path.transport))
    }
}
