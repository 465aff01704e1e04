import COpenSSL

/// A root that follows another is vouched for by it: the old CA signs a certificate for the new one's key. Whoever has
/// the old root can then tell the CA's word from that of somebody who merely speaks for the CA, such as the issuer that
/// renews certificates over the mesh.
extension EmbeddedCA {
    /// A certificate of this CA for the key of its successor.
    func vouch(for successor: Certificate) throws(IdentityError) -> Certificate {
        var template = CertificateTemplate(
            notBefore: max(certificate.notBefore, successor.notBefore),
            notAfter: min(certificate.notAfter, successor.notAfter),
            extensions: CertificateTemplate.authority
        )
        template.subject = Self.subject(of: trustDomain)
        template.names.uris = [Array(trustDomain.id.description.utf8)]
        guard let publicKey = X509_get0_pubkey(successor.pointer) else {
            throw IdentityError(.invalidCertificate, "the root \"\(successor.subject)\" has no readable public key")
        }
        return try template.sign(publicKey: publicKey, issuer: certificate, key: key)
    }

    /// What the CA says for roots that are given out beside its own.
    func vouchers() throws(IdentityError) -> [Certificate] {
        guard let directory else { return [] }
        let rotation = RootRotation(directory: directory)
        let written = try rotation.vouchers()
        guard written.isEmpty, rotation.phase == .distributing, let next = try rotation.other() else { return written }
        // An earlier release has begun to replace the root.
        return [try vouch(for: next)]
    }
}
