import Logging
public import MeshIdentity
import Platform
import Streams

/// Where a client or a listener has its identity from, and whom it trusts.
public struct CredentialSource: Sendable {
    enum Kind: Sendable {
        case directory(CredentialDirectory)
        case fixed(Credential)
    }

    let kind: Kind
    /// Bundles of other trust domains whose members may connect, or be connected to. The own domain's comes with the
    /// credential; one of the same domain here is ignored.
    public var foreignBundles: [TrustBundle] = []

    /// A directory with `key.pem`, `cert-chain.pem` and `root-cert.pem`, as `bootstrap ca issue` writes it.
    ///
    /// A renewed credential is taken up without a restart: the files are looked at when a connection or a stream is opened, at
    /// most once a second. Connections that stand keep the certificate they were made with. A renewal that cannot be
    /// read is logged, and the old credential stays in use.
    public static func directory(_ path: String) -> CredentialSource {
        CredentialSource(kind: .directory(CredentialDirectory(path)))
    }

    /// A credential that the program loaded itself, and that never changes.
    public static func fixed(_ credential: Credential) -> CredentialSource {
        CredentialSource(kind: .fixed(credential))
    }
}

/// A credential in use: the TLS contexts made from it, made anew when its files change. Safe to use from any thread.
final class LiveCredential: Sendable {
    /// What the contexts of one version of the credential have in common.
    struct Version: Sendable {
        let id: SPIFFEID
        let context: TLSContext
    }

    private struct State {
        var version: Version
        var stamp: FileStamp?
        /// When the files may be looked at again.
        var nextLook: ContinuousClock.Instant
    }

    /// One system call for each of four files: often enough for a certificate that lives for a day.
    private static let interval = Duration.seconds(1)

    private let source: CredentialSource
    private let role: TLSContext.Role
    private let logger: Logger
    private let state: Lock<State>

    /// - Throws: ``MeshIdentity/IdentityError`` when there is no usable credential.
    init(_ source: CredentialSource, role: TLSContext.Role, logger: Logger) throws {
        self.source = source
        self.role = role
        self.logger = logger
        let stamp = Self.stamp(of: source)
        state = Lock(
            State(
                version: try Self.load(source, role),
                stamp: stamp,
                nextLook: ContinuousClock.now + Self.interval
            )
        )
    }

    /// The present one. Reads the files when they have changed: a millisecond, once for each renewal.
    var current: Version {
        let (version, seen, isDue) = state.withLock { state in
            let now = ContinuousClock.now
            let isDue = state.stamp != nil && state.nextLook <= now
            // Whoever comes now looks; the others go on with what there is.
            if isDue { state.nextLook = now + Self.interval }
            return (state.version, state.stamp, isDue)
        }
        guard isDue, case let stamp = Self.stamp(of: source), stamp != seen else { return version }
        do {
            let renewed = try Self.load(source, role)
            state.withLock { ($0.version, $0.stamp) = (renewed, stamp) }
            logger.notice("credential renewed", metadata: ["identity": "\(renewed.id)"])
            return renewed
        } catch {
            // Said once: the same files are not read again.
            state.withLock { $0.stamp = stamp }
            logger.error("the renewed credential was not taken over: \(error)")
            return version
        }
    }

    private static func load(_ source: CredentialSource, _ role: TLSContext.Role) throws -> Version {
        let credential: Credential
        switch source.kind {
        case .directory(let directory): credential = try directory.load()
        case .fixed(let fixed): credential = fixed
        }
        var trust = TrustBundleSet(credential.bundle)
        for bundle in source.foreignBundles where bundle.trustDomain != credential.id.trustDomain {
            trust.insert(bundle)
        }
        return Version(
            id: credential.id,
            context: try TLSContext(role: role, credential: credential, trust: trust)
        )
    }

    private static func stamp(of source: CredentialSource) -> FileStamp? {
        guard case .directory(let directory) = source.kind else { return nil }
        return FileStamp(
            of: ["key.pem", "cert-chain.pem", "root-cert.pem", "ca-crl.pem"].map { "\(directory.path)/\($0)" }
        )
    }
}
