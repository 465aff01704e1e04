/// What the CAs of one trust domain no longer stand by: the lists that its roots have signed.
///
/// A list that is past its `nextUpdate` still counts. It says less than it should, but what it says is true; refusing
/// everybody because nobody brought a newer one would stop the mesh for the lack of an operator. Who revokes brings the
/// list to everybody.
package struct Revocations: Hashable, Sendable {
    /// The lists as they came, in PEM form; empty without any.
    package let pem: [UInt8]
    /// The serial numbers for each issuing key; the empty key is a list whose issuer is not named.
    private var serials: [String: Set<String>]
    /// When a later list is to be expected, of the first one that is due, in seconds since 1970; nil without any.
    package let nextUpdate: Int64?

    /// Nothing is revoked.
    package static let none = Revocations()

    private init() { (pem, serials, nextUpdate) = ([], [:], nil) }

    /// - Parameters:
    ///   - pem: Any number of lists; those of keys that are no roots here are skipped, as those of a root that was
    ///     dropped.
    ///   - roots: Who may have signed them.
    /// - Throws: ``IdentityError`` when a list is damaged, or names a root that has not signed it.
    package init(pem: [UInt8], roots: [Certificate]) throws(IdentityError) {
        var serials: [String: Set<String>] = [:]
        var nextUpdate: Int64?
        for list in try RevocationList.all(pem: pem) {
            if roots.contains(where: { list.isSigned(by: $0) }) {
                serials[list.issuer ?? "", default: []].formUnion(list.serials)
                if let time = list.nextUpdate { nextUpdate = min(nextUpdate ?? time, time) }
            } else if let root = roots.first(where: { $0.subjectKeyIdentifier == list.issuer }) {
                throw IdentityError(
                    .invalidCertificate,
                    "a revocation list says that \"\(root.subject)\" made it, but was not signed by it, or was changed"
                )
            }
        }
        self.pem = pem
        self.serials = serials
        self.nextUpdate = nextUpdate
    }

    /// The same, with what is known to be revoked from elsewhere: from a ledger.
    package func adding(_ certificates: some Sequence<CertificateName>) -> Revocations {
        var all = self
        for certificate in certificates { all.serials[certificate.issuer, default: []].insert(certificate.serial) }
        return all
    }

    /// Whether no certificate is revoked.
    package var isEmpty: Bool { serials.values.allSatisfy(\.isEmpty) }

    package func contain(_ certificate: CertificateName) -> Bool {
        if serials.isEmpty { return false }
        if let revoked = serials[certificate.issuer], revoked.contains(certificate.serial) { return true }
        // One of the two does not say whose key it was.
        if certificate.issuer.isEmpty { return serials.values.contains { $0.contains(certificate.serial) } }
        return serials[""]?.contains(certificate.serial) ?? false
    }
}
