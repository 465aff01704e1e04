import Glibc
import Platform

/// A new key that waits for its certificate, in a version directory of its own that nobody reads yet.
///
/// If it is dropped, or its process dies, the key goes with it: the next writer removes what is left.
public final class PendingCredential: Sendable {
    /// What to send to the issuer.
    public let request: CertificateRequest
    /// The identity that is asked for, and the only one that is taken.
    public let id: SPIFFEID
    private let directory: CredentialDirectory
    private let key: PrivateKey
    private let version: String
    /// Holds a lock on the version directory: it says that this pending credential is alive.
    private let lock: FileLock
    /// There was no directory before.
    private let madeDirectory: Bool

    init(directory: CredentialDirectory, id: SPIFFEID, key: PrivateKey) throws(IdentityError) {
        self.directory = directory
        self.id = id
        self.key = key
        request = try CertificateRequest.create(key: key, id: id)
        madeDirectory = access(directory.path, F_OK) != 0
        try fileWork(AtomicFile.createDirectory(directory.path))
        let writing = try fileWork(FileLock(directory: directory.path, patience: .seconds(10)))
        directory.removeStaleVersions()
        directory.willTake(.createVersion)
        version = try directory.createVersion()
        lock = try fileWork(FileLock(directory: "\(directory.path)/\(version)", patience: .zero))
        directory.willTake(.writeKey)
        let pem = try key.pem()
        try fileWork(AtomicFile.create(pem, at: "\(directory.path)/\(version)/\(CredentialFiles.key)", mode: 0o600))
        withExtendedLifetime(writing) {}
    }

    deinit {
        lock.unlock()
        // Whoever writes at this moment removes it as well, now or the next time.
        guard let writing = try? fileWork(FileLock(directory: directory.path, patience: .zero)) else { return }
        directory.removeStaleVersions()
        // Where nothing came of it, there is nothing in it.
        if madeDirectory { rmdir(directory.path) }
        withExtendedLifetime(writing) {}
    }

    /// Makes this the credential of the directory, in one step.
    ///
    /// Refuses a chain that is not for this key and identity, or that its roots do not vouch for: the directory then
    /// keeps what it had.
    ///
    /// - Parameters:
    ///   - chain: the leaf first.
    ///   - roots: Whom to trust from now on.
    ///   - revocationLists: In PEM form; nil keeps those that are there. Where one is older than what is there, that
    ///     stays.
    ///   - now: seconds since 1970; nil is the clock.
    public func commit(
        chain: [Certificate],
        roots: [Certificate],
        revocationLists: [UInt8]? = nil,
        at now: Int64? = nil
    ) throws(IdentityError) -> Credential {
        let writing = try fileWork(FileLock(directory: directory.path, patience: .seconds(10)))
        let present = directory.presentRevocationLists
        let lists = try revocationLists.map { given throws(IdentityError) in
            try RevocationListUpdate(of: present, with: given, roots: roots).pem
        }
        let credential = try Credential(
            key: key,
            chain: chain,
            roots: roots,
            revocationLists: lists ?? present,
            at: now
        )
        guard credential.id == id else {
            throw IdentityError(.refused, "the certificate is for \(credential.id), but \(id) was asked for")
        }
        guard directory.currentVersion != version else {
            throw IdentityError(.alreadyExists, "this credential was committed before")
        }
        let place = "\(directory.path)/\(version)"
        directory.willTake(.writeChain)
        try fileWork(AtomicFile.write(chain.flatMap(\.pem), to: "\(place)/\(CredentialFiles.chain)"))
        directory.willTake(.writeRoots)
        try fileWork(AtomicFile.write(credential.bundle.pem, to: "\(place)/\(CredentialFiles.roots)"))
        let kept = credential.bundle.revocations.pem
        if !kept.isEmpty { try fileWork(AtomicFile.write(kept, to: "\(place)/\(CredentialFiles.revocations)")) }
        try directory.adoptPlainFiles()
        try directory.linkFiles(with: version)
        try directory.swap(to: version)
        withExtendedLifetime(writing) {}
        return credential
    }
}

/// The steps of a write. All of them run under the directory's lock.
extension CredentialDirectory {
    func createVersion() throws(IdentityError) -> String {
        let name = Self.versionPrefix + AtomicFile.randomName()
        try fileWork(AtomicFile.createDirectory("\(path)/\(name)"))
        return name
    }

    /// Makes a version of plain files that another tool, or the user, put here: only then can all three change at once.
    ///
    /// The links and the plain files have the same content at every moment of it.
    func adoptPlainFiles() throws(IdentityError) {
        guard case .other = link(CredentialFiles.key) else { return }
        willTake(.adoptPlainFiles)
        let version = try createVersion()
        for name in CredentialFiles.all {
            let (bytes, access): ([UInt8], FileAccess)
            do throws(IdentityError) {
                (bytes, access) = try fileWork(AtomicFile.readWithAccess("\(path)/\(name)"))
            } catch {
                guard error.code == .notFound else { throw error }
                continue
            }
            try fileWork(AtomicFile.create(bytes, at: "\(path)/\(version)/\(name)", mode: access.mode))
        }
        try fileWork(AtomicFile.synchronize(directory: "\(path)/\(version)"))
        willTake(.linkAdopted)
        try fileWork(AtomicFile.replaceLink(at: "\(path)/\(Self.dataLink)", target: version))
        try fileWork(AtomicFile.synchronize(directory: path))
    }

    /// Makes the three links; the key's last, for it decides what `load` reads.
    ///
    /// - Parameter version: What they will lead to: a file that it does not have gets no link.
    func linkFiles(with version: String) throws(IdentityError) {
        let steps: [(WriteStep, String)] = [
            (.linkRoots, CredentialFiles.revocations), (.linkChain, CredentialFiles.chain),
            (.linkRoots, CredentialFiles.roots), (.linkKey, CredentialFiles.key),
        ]
        for (step, name) in steps where access("\(path)/\(version)/\(name)", F_OK) == 0 {
            let target = "\(Self.dataLink)/\(name)"
            if case .target(target) = link(name) { continue }
            willTake(step)
            try fileWork(AtomicFile.replaceLink(at: "\(path)/\(name)", target: target))
        }
        try fileWork(AtomicFile.synchronize(directory: path))
    }

    /// The moment of change, and what comes after it.
    func swap(to version: String) throws(IdentityError) {
        willTake(.swap)
        try fileWork(AtomicFile.replaceLink(at: "\(path)/\(Self.dataLink)", target: version))
        willTake(.synchronize)
        try fileWork(AtomicFile.synchronize(directory: path))
        willTake(.removeStale)
        removeStaleVersions()
    }

    /// Removes versions that are neither current nor pending in a live process, and what a crash left of a rename.
    ///
    /// Failures are not reported: what stays is removed the next time, and hurts nobody.
    func removeStaleVersions() {
        let current = currentVersion
        let leftovers = (CredentialFiles.all + [Self.dataLink]).map { ".\($0)." }
        for name in Self.entries(of: path) {
            if name.hasPrefix(Self.versionPrefix), name != current {
                guard let lock = try? fileWork(FileLock(directory: "\(path)/\(name)", patience: .zero)) else {
                    continue
                }
                for file in Self.entries(of: "\(path)/\(name)") { unlink("\(path)/\(name)/\(file)") }
                rmdir("\(path)/\(name)")
                lock.unlock()
            } else if leftovers.contains(where: name.hasPrefix) {
                unlink("\(path)/\(name)")
            }
        }
    }

    static func entries(of path: String) -> [String] {
        guard let directory = opendir(path) else { return [] }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: Int(NAME_MAX) + 1) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names
    }
}
