import COpenSSL
import Platform

/// A root that follows another is vouched for by it: the old CA signs a certificate for the new one's key. Whoever has the old root can then tell
/// the CA's word from that of somebody who merely speaks for the CA, such as the issuer that renews certificates over the mesh.
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

extension Certificate {
    fileprivate func hasKey(of other: Certificate) -> Bool {
        guard let own = X509_get0_pubkey(pointer), let others = X509_get0_pubkey(other.pointer) else { return false }
        return EVP_PKEY_eq(own, others) == 1
    }

    fileprivate func isSigned(byKeyOf root: Certificate) -> Bool {
        OpenSSLErrors.clear()
        defer { OpenSSLErrors.clear() }
        guard let key = X509_get0_pubkey(root.pointer) else { return false }
        return X509_verify(pointer, key) == 1
    }
}

extension TrustBundle {
    /// Whether this bundle may become one of `roots`: each of them is here already, or one that is here vouches for it.
    ///
    /// - Parameters:
    ///   - roots: Whom to trust from now on.
    ///   - vouchers: Certificates for the keys of those that are new, signed by roots that are here.
    ///   - now: Seconds since 1970; nil is the clock.
    /// - Throws: ``IdentityError`` with `refused` otherwise.
    package func check(
        successors roots: [Certificate],
        vouchers: [Certificate],
        at now: Int64? = nil
    ) throws(IdentityError) {
        let now = now ?? WallClock.system.seconds
        for root in roots where !self.roots.contains(root) {
            let isVouchedFor = vouchers.contains { voucher in
                voucher.isCA && voucher.hasKey(of: root) && (voucher.notBefore..<voucher.notAfter).contains(now)
                    && Self.foreignTrustDomain(of: voucher, in: trustDomain) == nil
                    && self.roots.contains { voucher.isSigned(byKeyOf: $0) }
            }
            guard isVouchedFor else {
                throw IdentityError(
                    .refused,
                    "the root \"\(root.subject)\" (SHA256 \(root.fingerprint)) is new, and no root that is trusted here vouches for it: "
                        + "`bootstrap renew` brings it over SSH"
                )
            }
        }
    }
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
