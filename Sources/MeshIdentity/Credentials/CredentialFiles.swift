import Glibc
import Platform

/// The three files of a credential, under the names that Istio's agents use.
struct CredentialFiles {
    static let key = "key.pem"
    static let chain = "cert-chain.pem"
    static let roots = "root-cert.pem"
    /// Istio's name, too. Not there: nothing is revoked.
    static let revocations = "ca-crl.pem"
    static let all = [key, chain, roots, revocations]

    let keyPEM: [UInt8]
    let chainPEM: [UInt8]
    let rootsPEM: [UInt8]
    var revocationsPEM: [UInt8]?

    /// Reads them all from one directory.
    ///
    /// - Parameters:
    ///   - directory: an open descriptor: the files of one version, whatever is renamed meanwhile.
    ///   - path: for messages.
    init(directory: Int32, path: String) throws(IdentityError) {
        (keyPEM, chainPEM) = try Self.keyAndChain(directory: directory, path: path)
        rootsPEM = try Self.named(path) { () throws(IdentityError) in
            try trustFile(Self.roots, at: directory, named: "\(path)/\(Self.roots)")
        }
        revocationsPEM = try Self.revocationLists(directory: directory, path: path)
    }

    /// nil: there is no such file.
    static func revocationLists(directory: Int32, path: String) throws(IdentityError) -> [UInt8]? {
        try named(path) { () throws(IdentityError) in
            do throws(IdentityError) {
                return try trustFile(
                    revocations,
                    at: directory,
                    limit: RevocationList.maximumLength,
                    named: "\(path)/\(revocations)"
                )
            } catch {
                guard error.code == .notFound else { throw error }
                return nil
            }
        }
    }

    /// What a server needs that is verified by its name.
    static func keyAndChain(directory: Int32, path: String) throws(IdentityError) -> (key: [UInt8], chain: [UInt8]) {
        let (key, access) = try named(path) { () throws(IdentityError) in
            try fileWork(AtomicFile.readWithAccess(Self.key, at: directory))
        }
        try requirePrivate(access, path: "\(path)/\(Self.key)")
        let chain = try named(path) { () throws(IdentityError) in
            try fileWork(AtomicFile.read(Self.chain, at: directory))
        }
        return (key, chain)
    }

    func credential(path: String, at now: Int64?) throws(IdentityError) -> Credential {
        try Self.named(path) { () throws(IdentityError) in
            let key: PrivateKey
            do throws(IdentityError) { key = try PrivateKey(pem: keyPEM) } catch {
                throw IdentityError(error.code, "\(Self.key): \(error.message)")
            }
            return try Credential(
                key: key,
                chain: Certificate.all(pem: chainPEM, of: Self.chain),
                roots: Certificate.all(pem: rootsPEM, of: Self.roots),
                revocationLists: revocationsPEM,
                at: now
            )
        }
    }

    /// Refuses a private key that anybody but its owner can read.
    static func requirePrivate(_ access: FileAccess, path: String) throws(IdentityError) {
        guard access.mode & 0o077 == 0 else {
            throw IdentityError(
                .permissions,
                "the private key \(path) has permissions \(access.modeText): others can read or change it. "
                    + "Make it private with: chmod 600 \(path), and replace it if others may have read it"
            )
        }
    }

    /// Adds the directory to whatever `body` throws.
    private static func named<Result>(
        _ path: String,
        _ body: () throws(IdentityError) -> Result
    ) throws(IdentityError) -> Result {
        do throws(IdentityError) {
            return try body()
        } catch {
            throw IdentityError(error.code, "credential directory \(path): \(error.message)")
        }
    }
}
