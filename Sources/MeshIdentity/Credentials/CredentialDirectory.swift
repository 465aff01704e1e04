import Glibc
import Platform

/// A directory with `key.pem` (0600), `cert-chain.pem` (leaf first) and `root-cert.pem`: Istio's names.
///
/// The three change together, the way Kubernetes' projected volumes do:
///
///     key.pem        -> ..data/key.pem          links that never change
///     cert-chain.pem -> ..data/cert-chain.pem
///     root-cert.pem  -> ..data/root-cert.pem
///     ..data         -> ..version-5f3a          replaced by one rename(2): the moment of change
///     ..version-5f3a/{key,cert-chain,root-cert}.pem
///
/// A reader that opens `..data` once sees one version, however many writers there are, and a crash leaves the old
/// version or the new one. Plain files that another tool put there are read too, and taken over by the first write.
public struct CredentialDirectory: Sendable {
    /// Where it is; the directory need not exist before the first write.
    public let path: String

    /// Called before each step of a write that a crash could interrupt, so that tests can crash there.
    package var willTake: @Sendable (WriteStep) -> Void = { _ in }

    static let dataLink = "..data"
    static let versionPrefix = "..version-"

    /// Reads and writes nothing yet.
    public init(_ path: String) { self.path = path }

    /// Reads and verifies the credential.
    ///
    /// Fails with `notFound` if there is none, `permissions` if others can read the key, `keyMismatch`,
    /// `expired` or `notYetValid`, and `invalidCertificate` if peers would refuse it for another reason.
    ///
    /// - Parameter now: seconds since 1970; nil is the clock.
    public func load(at now: Int64? = nil) throws(IdentityError) -> Credential {
        try consistently { () throws(IdentityError) in try read().credential(path: path, at: now) }
    }

    /// A version can be removed between opening and reading it, but only because a newer one is there: looks again.
    func consistently<Result>(_ body: () throws(IdentityError) -> Result) throws(IdentityError) -> Result {
        for _ in 0..<100 {
            let before = currentVersion
            do throws(IdentityError) {
                return try body()
            } catch {
                guard [.notFound, .keyMismatch].contains(error.code), currentVersion != before else { throw error }
            }
        }
        throw IdentityError(.file, "credential directory \(path): it changes faster than it can be read")
    }

    /// Makes a new key and a request for a certificate. What is in the directory stays as it is until
    /// `PendingCredential.commit`.
    ///
    /// The key is written at once, so that a full or read-only disk shows itself before anybody signs anything.
    public func prepare(id: SPIFFEID) throws(IdentityError) -> PendingCredential {
        try PendingCredential(directory: self, id: id, key: PrivateKey.generate())
    }

    /// Replaces what is in the directory with a credential made elsewhere.
    public func write(_ credential: Credential) throws(IdentityError) {
        let pending = try PendingCredential(directory: self, id: credential.id, key: credential.key)
        let lists = credential.bundle.revocations.pem
        _ = try pending.commit(
            chain: credential.chain,
            roots: credential.bundle.roots,
            revocationLists: lists.isEmpty ? nil : lists
        )
    }

    /// Replaces the revocation lists by those that are newer, and nothing else, in one step. Nothing happens when they
    /// are there already.
    ///
    /// - Parameter lists: In PEM form.
    /// - Throws: ``IdentityError`` with `refused` when what is there is newer: whoever sends these would take
    ///   revocations back. `invalidCertificate` when the roots here have not signed them.
    /// - Returns: whether anything changed.
    @discardableResult
    public func write(revocationLists lists: [UInt8]) throws(IdentityError) -> Bool {
        let writing = try fileWork(FileLock(directory: path, patience: .seconds(10)))
        defer { withExtendedLifetime(writing) {} }
        let files = try read()
        if files.revocationsPEM == lists { return false }
        let update = try RevocationListUpdate(
            of: files.revocationsPEM,
            with: lists,
            roots: Certificate.all(pem: files.rootsPEM, of: "\(path)/\(CredentialFiles.roots)")
        )
        guard files.revocationsPEM != update.pem else {
            if let remark = update.remark { throw IdentityError(.refused, remark) }
            return false
        }
        removeStaleVersions()
        willTake(.createVersion)
        let version = try createVersion()
        let place = "\(path)/\(version)"
        willTake(.writeKey)
        try fileWork(AtomicFile.create(files.keyPEM, at: "\(place)/\(CredentialFiles.key)", mode: 0o600))
        willTake(.writeChain)
        try fileWork(AtomicFile.write(files.chainPEM, to: "\(place)/\(CredentialFiles.chain)"))
        willTake(.writeRoots)
        try fileWork(AtomicFile.write(files.rootsPEM, to: "\(place)/\(CredentialFiles.roots)"))
        try fileWork(AtomicFile.write(update.pem, to: "\(place)/\(CredentialFiles.revocations)"))
        try adoptPlainFiles()
        try linkFiles(with: version)
        try swap(to: version)
        return true
    }

    /// What is to be said of lists that are to be put here: that newer ones are here, and stay, or that a clock is
    /// wrong; nil when there is nothing.
    ///
    /// - Parameter lists: In PEM form.
    package func remark(on lists: [UInt8]) -> String? {
        // Nearly always: nothing to parse, and no signature to check, of what may be 16 MiB.
        guard let files = try? read(), files.revocationsPEM != lists,
            let roots = try? Certificate.all(pem: files.rootsPEM)
        else { return nil }
        return try? RevocationListUpdate(of: files.revocationsPEM, with: lists, roots: roots).warning
    }

    func presentRoots() throws(IdentityError) -> [Certificate] {
        try Certificate.all(pem: read().rootsPEM, of: "\(path)/\(CredentialFiles.roots)")
    }

    /// The revocation lists in use, in PEM form; nil without any.
    var presentRevocationLists: [UInt8]? { (try? read())?.revocationsPEM }

    private func read() throws(IdentityError) -> CredentialFiles {
        var files = try opened { directory throws(IdentityError) in
            try CredentialFiles(directory: directory, path: path)
        }
        // The first list that somebody copies here lies beside `..data`: who puts it there wants it to hold.
        if files.revocationsPEM == nil, usesVersions, case .other = link(CredentialFiles.revocations) {
            files.revocationsPEM = try opened(path) { directory throws(IdentityError) in
                try CredentialFiles.revocationLists(directory: directory, path: path)
            }
        }
        return files
    }

    /// Key and chain, in PEM form.
    func readServer() throws(IdentityError) -> (key: [UInt8], chain: [UInt8]) {
        try opened { directory throws(IdentityError) in
            try CredentialFiles.keyAndChain(directory: directory, path: path)
        }
    }

    private func opened<Result>(
        _ place: String? = nil,
        _ body: (Int32) throws(IdentityError) -> Result
    ) throws(IdentityError) -> Result {
        let source = place ?? (usesVersions ? "\(path)/\(Self.dataLink)" : path)
        let directory = open(source, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard directory >= 0 else {
            if errno == ENOENT {
                throw IdentityError(
                    .notFound,
                    "there is no credential in \(path); `bootstrap enroll` or `ca issue` makes one"
                )
            }
            throw IdentityError(AtomicFile.failure("open", source))
        }
        defer { close(directory) }
        return try body(directory)
    }

    /// Whether `..data` is what counts, and not plain files.
    private var usesVersions: Bool {
        switch link(CredentialFiles.key) {
        case .target(let target): target == "\(Self.dataLink)/\(CredentialFiles.key)"
        case .missing: true
        case .other: false
        }
    }

    /// The name of the version directory that `..data` points to.
    var currentVersion: String? {
        if case .target(let target) = link(Self.dataLink) { target } else { nil }
    }

    enum Link {
        case target(String)
        case other
        case missing
    }

    func link(_ name: String) -> Link {
        var target = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = readlink("\(path)/\(name)", &target, target.count)
        guard count >= 0 else { return errno == EINVAL ? .other : .missing }
        return .target(String(decoding: target.prefix(count).map(UInt8.init(bitPattern:)), as: UTF8.self))
    }
}

/// What a write does, in this order; a crash can come before each.
package enum WriteStep: String, CaseIterable, Sendable {
    case createVersion, writeKey, writeChain, writeRoots
    case adoptPlainFiles, linkAdopted
    case linkChain, linkRoots, linkKey
    case swap, synchronize, removeStale
}

extension CredentialDirectory {
    /// As ``TrustBundle/check(successors:vouchers:at:)``, for the roots of the credential that is here.
    package func check(
        successors roots: [Certificate],
        vouchers: [Certificate],
        in trustDomain: TrustDomain
    ) throws(IdentityError) {
        try TrustBundle(trustDomain: trustDomain, roots: presentRoots()).check(successors: roots, vouchers: vouchers)
    }
}
