import Glibc
import Platform

/// The key that signs what a mesh's directory says, with the CA's certificate for it.
///
/// A key of its own, so that a change of the directory does not need the CA's: that may be encrypted, and is worth
/// more. Its certificate goes with each signature; whoever has the CA's roots can verify it, and needs nothing else.
package struct DirectorySigner: Sendable {
    package let key: PrivateKey
    package let certificate: Certificate

    /// Beside the CA's files; 0600.
    package static let keyFile = "directory-key.pem"
    package static let certificateFile = "directory-cert.pem"

    init(key: PrivateKey, certificate: Certificate) { (self.key, self.certificate) = (key, certificate) }

    /// Opens the one in a CA's directory.
    ///
    /// - Returns: nil: there is none, or none that those who trust the CA's present roots would believe, or its time is
    ///   over, or it was revoked: ``EmbeddedCA/directorySigner(at:)`` makes one, with the CA's key.
    package static func load(directory: String, at now: Int64? = nil) throws(IdentityError) -> DirectorySigner? {
        let path = "\(directory)/\(keyFile)"
        guard access(path, F_OK) == 0 else { return nil }
        let (pem, access) = try fileWork(AtomicFile.readWithAccess(path))
        try CredentialFiles.requirePrivate(access, path: path)
        let key = try PrivateKey(pem: pem)
        let certificate = try Certificate(pem: fileWork(AtomicFile.read("\(directory)/\(certificateFile)")))
        guard key.matches(certificate) else { return nil }
        // By the key that signs now: the certificate of one that is being replaced is worth nothing soon.
        guard certificate.isSigned(byKeyOf: try EmbeddedCA.signers(directory: directory)[0]) else { return nil }
        let bundle = try EmbeddedCA.directoryBundle(directory: directory)
        do throws(IdentityError) {
            try bundle.verify(directoryKey: certificate, at: now)
        } catch {
            return nil
        }
        return DirectorySigner(key: key, certificate: certificate)
    }
}

extension EmbeddedCA {
    /// The roots of the CA in a directory, and what it has revoked: whose word counts for the mesh's directory.
    package static func directoryBundle(directory: String) throws(IdentityError) -> TrustBundle {
        let present = try Self.bundle(directory: directory)
        return try TrustBundle(
            trustDomain: present.trustDomain,
            roots: present.roots,
            revocationLists: Self.revocationLists(directory: directory)
        )
    }

    /// The key that signs the mesh's directory: the one beside the CA, or a new one where that is missing or not good
    /// any more.
    package func directorySigner(at now: Int64? = nil) throws(IdentityError) -> DirectorySigner {
        guard let directory else { return try makeDirectorySigner() }
        if let present = try DirectorySigner.load(directory: directory, at: now) { return present }
        let lock = try fileWork(FileLock(directory: directory, patience: .seconds(10)))
        defer { withExtendedLifetime(lock) {} }
        if let present = try DirectorySigner.load(directory: directory, at: now) { return present }
        let signer = try makeDirectorySigner()
        // The key first: a certificate of another key counts for none.
        let pem = try signer.key.pem()
        try fileWork(AtomicFile.write(pem, to: "\(directory)/\(DirectorySigner.keyFile)", mode: 0o600))
        try fileWork(AtomicFile.write(signer.certificate.pem, to: "\(directory)/\(DirectorySigner.certificateFile)"))
        return signer
    }

    /// A new key and a certificate that lasts as long as the CA's own, whatever the clocks of devices say meanwhile.
    package func makeDirectorySigner() throws(IdentityError) -> DirectorySigner {
        let signer = try PrivateKey.generate()
        var template = CertificateTemplate(
            notBefore: certificate.notBefore,
            notAfter: certificate.notAfter,
            extensions: CertificateTemplate.dataSigner
        )
        template.names.uris = [Array(ReservedIdentity.directory(of: trustDomain).utf8)]
        let signed = try template.sign(publicKey: signer.pointer, issuer: certificate, key: key)
        return DirectorySigner(key: signer, certificate: signed)
    }
}
