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

    /// Certificates to refuse beside those on the credential's revocation lists: what the program knows itself, from a
    /// database of its own. Called about once a second, from any thread; must not block for long. What it throws is
    /// logged, once until it is something else, and what it said before holds.
    package var alsoRevoked: (@Sendable () throws -> Set<CertificateName>)?

    /// A directory with `key.pem`, `cert-chain.pem` and `root-cert.pem`, as `bootstrap ca issue` writes it.
    ///
    /// A renewed credential is taken up without a restart: the files are looked at once a second. Connections that
    /// stand keep the certificate they were made with, unless their peer's is on the revocation list now: they are cut.
    /// A renewal that cannot be read is logged, and the old credential stays in use.
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

    /// What a version was made of.
    private struct Origin: Equatable {
        var stamp: FileStamp?
        var revoked: Set<CertificateName> = []
    }

    private struct State {
        var version: Version
        var credential: Credential
        var origin: Origin
        /// What no version could be made of, so that it is said once.
        var failed: Origin?
        /// Why it is not known what was revoked meanwhile, so that it is said once.
        var unknown: String?
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
        let origin = Origin(stamp: Self.stamp(of: source), revoked: try source.alsoRevoked?() ?? [])
        let credential = try Self.read(source)
        state = Lock(
            State(
                version: try Self.version(of: credential, source, role, origin.revoked),
                credential: credential,
                origin: origin,
                nextLook: ContinuousClock.now + Self.interval
            )
        )
    }

    /// The present one as of the last look: for whoever must not wait for files, or for a database: event loops, and
    /// what opens a stream. Whoever uses it has ``follow(_:)`` look.
    var latest: Version { state.withLock(\.version) }

    /// The present one. Reads the files when they have changed: a millisecond, once for each renewal.
    var current: Version {
        let (version, credential, seen, isDue) = state.withLock { state in
            let now = ContinuousClock.now
            let isDue = changes && state.nextLook <= now
            // Whoever comes now looks; the others go on with what there is.
            if isDue { state.nextLook = now + Self.interval }
            return (state.version, state.credential, state.origin, isDue)
        }
        guard isDue, case let origin = look(after: seen), origin != seen else { return version }
        do {
            let (read, remark) = try Self.read(source).keepingRevocations(of: credential)
            let renewed = try Self.version(of: read, source, role, origin.revoked)
            state.withLock { ($0.version, $0.credential, $0.origin, $0.failed) = (renewed, read, origin, nil) }
            if origin.stamp != seen.stamp {
                logger.notice("credential renewed", metadata: ["identity": "\(renewed.id)"])
                if let remark { logger.warning("\(remark): what was revoked stays so until this process ends") }
            }
            return renewed
        } catch {
            // Said once, and tried again: it may have been a moment without memory or descriptors.
            let isNew = state.withLock { state in
                defer { state.failed = origin }
                return state.failed != origin
            }
            if isNew { logger.error("the renewed credential was not taken over: \(error)") }
        }
        // Whoever is revoked now is refused with the old credential, too.
        guard origin.revoked != seen.revoked,
            let stricter = try? Self.version(of: credential, source, role, origin.revoked)
        else { return version }
        let held = Origin(stamp: seen.stamp, revoked: origin.revoked)
        state.withLock { ($0.version, $0.credential, $0.origin) = (stricter, credential, held) }
        return stricter
    }

    /// Whether there can ever be another version.
    private var changes: Bool {
        if case .directory = source.kind { return true }
        return source.alsoRevoked != nil
    }

    private func look(after seen: Origin) -> Origin {
        var origin = Origin(stamp: Self.stamp(of: source), revoked: seen.revoked)
        var problem: String?
        do {
            if let alsoRevoked = source.alsoRevoked { origin.revoked = try alsoRevoked() }
        } catch {
            problem = "\(error)"
        }
        let isNew = state.withLock { state in
            defer { state.unknown = problem }
            return state.unknown != problem
        }
        if isNew, let problem { logger.error("what was revoked meanwhile is not known: \(problem)") }
        return origin
    }

    /// Looks again and again, whether or not anybody connects, until the task that is returned is cancelled: what
    /// stands is cut when it is revoked, and not when the next connection comes.
    ///
    /// - Parameter changed: Called with each version that has come into use.
    /// - Returns: nil where there can never be another one.
    func follow(_ changed: @escaping @Sendable (Version) -> Void) -> Task<Void, Never>? {
        guard changes else { return nil }
        let first = latest
        return Task { [weak self] in
            var seen = first.context
            while (try? await Task.sleep(for: Self.interval)) != nil {
                guard let version = self?.current else { return }
                guard version.context !== seen else { continue }
                seen = version.context
                changed(version)
            }
        }
    }

    private static func read(_ source: CredentialSource) throws -> Credential {
        switch source.kind {
        case .directory(let directory): try directory.load()
        case .fixed(let fixed): fixed
        }
    }

    private static func version(
        of credential: Credential,
        _ source: CredentialSource,
        _ role: TLSContext.Role,
        _ revoked: Set<CertificateName>
    ) throws -> Version {
        var trust = TrustBundleSet(credential.bundle.refusing(revoked))
        for bundle in source.foreignBundles where bundle.trustDomain != credential.id.trustDomain {
            trust.insert(bundle.refusing(revoked))
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
