import H2Transport
import MeshIdentity

/// What holds for one listener of protocol hbone whose clients need not be members of the mesh. Immutable; a reload
/// makes a new one.
final class GatewayRules: Sendable {
    let settings: NodeConfiguration.GatewaySettings
    /// What it shows; nil: TLS has ended before it.
    let server: TLSContext?
    private let options: TLSContext.Options
    /// As its files had them; none where it shows the node's own.
    private let credentials: [ServerCredential]

    /// - Throws: What is wrong with its credentials.
    init(
        _ settings: NodeConfiguration.GatewaySettings,
        own: Credential,
        trust: TrustBundleSet,
        options: TLSContext.Options
    ) throws {
        self.settings = settings
        self.options = options
        credentials = try settings.credentials.map { try CredentialDirectory($0).loadServer() }
        server = try Self.server(settings, credentials, own, trust, options)
    }

    /// The same, for another credential of the node: no file is read.
    init(_ other: GatewayRules, own: Credential, trust: TrustBundleSet) throws {
        settings = other.settings
        options = other.options
        credentials = other.credentials
        server = try Self.server(settings, credentials, own, trust, options)
    }

    private static func server(
        _ settings: NodeConfiguration.GatewaySettings,
        _ credentials: [ServerCredential],
        _ own: Credential,
        _ trust: TrustBundleSet,
        _ options: TLSContext.Options
    ) throws -> TLSContext? {
        if settings.isClear { return nil }
        let shown = credentials.isEmpty ? [try ServerCredential(key: own.key, chain: own.chain)] : credentials
        let clients: TLSContext.Clients =
            switch settings.clients {
            case .none: .none
            case .optional: .optional
            case .mesh: .required
            }
        return try TLSContext(serving: shown, to: clients, trust: trust, options: options)
    }
}
