import Glibc
import Platform

/// One CA after another, with time for everybody to learn of it.
///
/// ```
/// steady ─ begin → distributing ─ switchSigner → retiring ─ finish → steady
///                  roots: old, new              roots: old, new      roots: new
///                  the old one signs            the new one signs
/// ```
///
/// All of it is files beside the CA's: `next/` has the key and certificate of the new one, then `previous/` those of
/// the old one. What is there says which step comes next, so that a step that was cut is done again.
package struct RootRotation: Sendable {
    package enum Phase: String, Sendable {
        /// One CA, or none that is to come.
        case steady
        /// The new root is given out with every certificate; the old one signs.
        case distributing
        /// The new one signs; the old root is still given out, for certificates that it has signed.
        case retiring
    }

    private let directory: String

    /// - Parameter directory: The CA's.
    package init(directory: String) { self.directory = directory }

    private var next: String { "\(directory)/next" }
    private var previous: String { "\(directory)/previous" }
    private var rootsFile: String { "\(directory)/\(EmbeddedCA.rootsFile)" }
    private var vouchersFile: String { "\(directory)/\(EmbeddedCA.vouchersFile)" }

    package var phase: Phase {
        if access("\(next)/\(EmbeddedCA.certificateFile)", F_OK) == 0 { return .distributing }
        return access("\(previous)/\(EmbeddedCA.certificateFile)", F_OK) == 0 ? .retiring : .steady
    }

    /// The certificate of the CA that is to come, or of the one that goes; nil when ``phase`` is steady.
    package func other() throws(IdentityError) -> Certificate? {
        switch phase {
        case .steady: nil
        case .distributing: try Certificate(pem: fileWork(AtomicFile.read("\(next)/\(EmbeddedCA.certificateFile)")))
        case .retiring: try Certificate(pem: fileWork(AtomicFile.read("\(previous)/\(EmbeddedCA.certificateFile)")))
        }
    }

    /// What the old CA has signed for the new one's key; empty where no root is being replaced.
    func vouchers() throws(IdentityError) -> [Certificate] {
        do throws(IdentityError) {
            return try Certificate.trusted(file: vouchersFile)
        } catch {
            guard error.code == .notFound else { throw error }
            return []
        }
    }

    /// Makes the next CA, and has its root given out from now on.
    ///
    /// - Parameters:
    ///   - present: The CA that signs now.
    ///   - passphrase: Encrypts the new key; nil as the old one is not encrypted.
    /// - Returns: The new root.
    package func begin(_ present: EmbeddedCA, passphrase: Passphrase?) throws(IdentityError) -> Certificate {
        let lock = try fileWork(FileLock(directory: directory, patience: .seconds(10)))
        defer { withExtendedLifetime(lock) {} }
        // Now, not before the wait for the lock: whoever had it may have begun as well.
        guard phase == .steady else {
            throw IdentityError(.alreadyExists, "a root is being replaced in \(directory) already")
        }
        discardUnfinished()
        // Without a key for the directory: that of the present one signs until this one has its place.
        let future = try EmbeddedCA.create(
            EmbeddedCA(trustDomain: present.trustDomain, now: WallClock.system.seconds),
            directory: "\(directory)/next.making",
            passphrase: passphrase
        )
        let voucher = try present.vouch(for: future.certificate)
        try fileWork(AtomicFile.write(voucher.pem, to: vouchersFile))
        try writeRoots(present.roots + [future.certificate])
        // The moment of change: before it, nothing has happened but an additional root.
        guard rename("\(directory)/next.making", next) == 0 else {
            throw IdentityError(AtomicFile.failure("create", next))
        }
        try fileWork(AtomicFile.synchronize(directory: directory))
        return future.certificate
    }

    /// Removes what a `begin` that was cut has left. Its root was given to nobody who trusts nothing else.
    package func discardUnfinished() {
        let names = [
            EmbeddedCA.keyFile, EmbeddedCA.certificateFile, EmbeddedCA.rootsFile, DirectorySigner.keyFile,
            DirectorySigner.certificateFile,
        ]
        for name in names {
            unlink("\(directory)/next.making/\(name)")
        }
        rmdir("\(directory)/next.making")
        EmbeddedCA.removeUnfinished(of: "\(directory)/next.making")
    }

    /// Has the new CA sign from now on. The old key stays, to revoke what it has signed.
    package func switchSigner() throws(IdentityError) {
        let lock = try fileWork(FileLock(directory: directory, patience: .seconds(10)))
        defer { withExtendedLifetime(lock) {} }
        try expect(.distributing)
        try keepPrevious()
        for name in [EmbeddedCA.keyFile, EmbeddedCA.certificateFile] {
            // Once the key is there, `EmbeddedCA.load` finds the certificate in either place.
            guard rename("\(next)/\(name)", "\(directory)/\(name)") == 0 || errno == ENOENT else {
                throw IdentityError(AtomicFile.failure("replace", "\(directory)/\(name)"))
            }
        }
        unlink("\(next)/\(EmbeddedCA.rootsFile)")
        rmdir(next)
        try fileWork(AtomicFile.synchronize(directory: directory))
    }

    private func keepPrevious() throws(IdentityError) {
        guard access(previous, F_OK) != 0 else { return }
        let making = "\(previous).making"
        try fileWork(AtomicFile.createDirectory(making, mode: 0o700))
        for (name, mode) in [(EmbeddedCA.keyFile, 0o600 as UInt32), (EmbeddedCA.certificateFile, 0o644)] {
            let bytes = try fileWork(AtomicFile.read("\(directory)/\(name)"))
            try fileWork(AtomicFile.write(bytes, to: "\(making)/\(name)", mode: mode))
        }
        try fileWork(AtomicFile.synchronize(directory: making))
        guard rename(making, previous) == 0 else { throw IdentityError(AtomicFile.failure("create", previous)) }
    }

    /// Gives the old root out no more, and removes its key.
    package func finish() throws(IdentityError) {
        let lock = try fileWork(FileLock(directory: directory, patience: .seconds(10)))
        defer { withExtendedLifetime(lock) {} }
        try expect(.retiring)
        try writeRoots([Certificate(pem: fileWork(AtomicFile.read("\(directory)/\(EmbeddedCA.certificateFile)")))])
        unlink(vouchersFile)
        for name in [EmbeddedCA.keyFile, EmbeddedCA.certificateFile] { unlink("\(previous)/\(name)") }
        guard rmdir(previous) == 0 || errno == ENOENT else {
            throw IdentityError(AtomicFile.failure("remove", previous))
        }
        try fileWork(AtomicFile.synchronize(directory: directory))
    }

    /// What was read before the lock was waited for may have been done by whoever had it.
    private func expect(_ expected: Phase) throws(IdentityError) {
        guard phase == expected else {
            throw IdentityError(
                .refused,
                "another process has taken this step in \(directory) meanwhile; `bootstrap ca rotate --status` says how far it is"
            )
        }
    }

    private func writeRoots(_ roots: [Certificate]) throws(IdentityError) {
        try fileWork(AtomicFile.write(roots.flatMap(\.pem), to: rootsFile))
    }
}

extension EmbeddedCA {
    /// The CA that signed before the present one, while its root is still given out; nil at other times.
    package func previous(passphrase: Passphrase?) throws(IdentityError) -> EmbeddedCA? {
        guard let directory, RootRotation(directory: directory).phase == .retiring else { return nil }
        let place = "\(directory)/previous"
        return EmbeddedCA(
            certificate: try Certificate(pem: fileWork(AtomicFile.read("\(place)/\(Self.certificateFile)"))),
            bundle: try TrustBundle(trustDomain: trustDomain, roots: roots),
            key: try PrivateKey(pem: fileWork(AtomicFile.read("\(place)/\(Self.keyFile)")), passphrase: passphrase),
            directory: directory
        )
    }

    /// Removes what makers of a CA that were killed have left beside its place: each has a key. To be called under the
    /// lock of the directory above it.
    static func removeUnfinished(of directory: String) {
        let (parent, name) = AtomicFile.split(directory)
        let prefix = ".\(name)."
        // What `create` calls it, and hardly anybody else: no copy that somebody has put there by hand.
        let isOurs = { (entry: String) in
            let rest = entry.dropFirst(prefix.count).utf8
            return entry.hasPrefix(prefix) && (12...16).contains(rest.count)
                && rest.allSatisfy { (48...57).contains($0) || (97...102).contains($0) }
        }
        let files = [
            keyFile, certificateFile, rootsFile, DirectorySigner.keyFile, DirectorySigner.certificateFile,
        ]
        for entry in CredentialDirectory.entries(of: parent) where isOurs(entry) {
            let place = "\(parent)/\(entry)"
            for file in CredentialDirectory.entries(of: place)
            where files.contains(file) || files.contains(where: { file.hasPrefix(".\($0).") }) {
                unlink("\(place)/\(file)")
            }
            rmdir(place)
        }
    }
}
