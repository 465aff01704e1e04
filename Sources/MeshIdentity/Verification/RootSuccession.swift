import COpenSSL
import Platform

extension Certificate {
    fileprivate func hasKey(of other: Certificate) -> Bool {
        guard let own = X509_get0_pubkey(pointer), let others = X509_get0_pubkey(other.pointer) else { return false }
        return EVP_PKEY_eq(own, others) == 1
    }

    func isSigned(byKeyOf root: Certificate) -> Bool {
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
