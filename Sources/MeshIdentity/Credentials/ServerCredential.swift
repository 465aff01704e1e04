import Platform

/// What a server shows to clients that know it by its names, and verify it by roots of their own: a key, and the
/// certificate for it. Nothing is said of who vouches for that.
package struct ServerCredential: Sendable {
    /// The private key of the leaf.
    package let key: PrivateKey
    /// The leaf first, then what is between it and a root.
    package let chain: [Certificate]

    package var leaf: Certificate { chain[0] }

    /// Fails if the key is not the certificate's.
    package init(key: PrivateKey, chain: [Certificate]) throws(IdentityError) {
        guard let leaf = chain.first else { throw IdentityError(.invalidCertificate, "there is no certificate") }
        guard key.matches(leaf) else {
            throw IdentityError(.keyMismatch, "the private key and the certificate do not belong together")
        }
        self.key = key
        self.chain = chain
    }
}

extension CredentialDirectory {
    /// Reads `key.pem` and `cert-chain.pem`, of one version. Whether the certificate is valid now is for its clients to
    /// say: one that has expired is better than no server.
    package func loadServer() throws(IdentityError) -> ServerCredential {
        try consistently { () throws(IdentityError) in
            let (key, chain) = try readServer()
            do throws(IdentityError) {
                return try ServerCredential(
                    key: PrivateKey(pem: key),
                    chain: Certificate.all(pem: chain, of: CredentialFiles.chain)
                )
            } catch {
                throw IdentityError(error.code, "credential directory \(path): \(error.message)")
            }
        }
    }
}
