import Platform

/// A certificate and its key for servers that are no members of a mesh: any certificate, held to none of SPIFFE's
/// rules. In a directory with the names that a credential has, `key.pem` (0600) and `cert-chain.pem` (leaf first);
/// roots are not needed.
package struct ClientCertificate: Sendable {
    package let key: PrivateKey
    /// The leaf first; never empty.
    package let chain: [Certificate]

    /// - Throws: ``IdentityError``, with the directory in its text: a file is missing or damaged, others can read the
    ///   key, or it is another certificate's.
    package init(directory: String) throws(IdentityError) {
        do throws(IdentityError) {
            let path = "\(directory)/\(CredentialFiles.key)"
            let (pem, access) = try fileWork(AtomicFile.readWithAccess(path))
            try CredentialFiles.requirePrivate(access, path: path)
            key = try PrivateKey(pem: pem)
            chain = try Certificate.all(file: "\(directory)/\(CredentialFiles.chain)")
            guard key.matches(chain[0]) else {
                throw IdentityError(.keyMismatch, "key.pem is not the key of the first certificate in cert-chain.pem")
            }
        } catch {
            throw IdentityError(error.code, "client certificate in \(directory): \(error.message)")
        }
    }
}
