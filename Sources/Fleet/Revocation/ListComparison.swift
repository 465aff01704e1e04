import MeshIdentity
import Platform

/// What the ledger and the CA's revocation list say differently of who is revoked. No key of the CA is needed.
///
/// Between the commit of the ledger and the list's replacement a command can be ended, or not get at the list; and an
/// earlier copy of either can be put back.
package struct ListComparison: Sendable {
    /// Revoked in the ledger, by a key that is here, and on no list yet: no device refuses them.
    package var unlisted: [LedgerCertificate] = []
    /// Revoked in the ledger, and on no list that can be written here: another issuer has signed them, or a CA whose
    /// key is gone.
    package var foreign: [LedgerCertificate] = []
    /// How many certificates are on the list that the ledger does not have as revoked.
    package var unknown = 0

    /// - Parameters:
    ///   - directory: The CA's.
    ///   - ledger: Where certificates of that CA are recorded.
    /// - Throws: ``LedgerError`` with the way back, where the list is damaged; the same where there is no CA.
    package init(directory: String, ledger: Ledger) throws(LedgerError) {
        let roots: [Certificate]
        let signers: [Certificate]
        do throws(IdentityError) {
            roots = try EmbeddedCA.bundle(directory: directory).roots
            signers = try EmbeddedCA.signers(directory: directory)
        } catch {
            throw LedgerError(.file, error.message)
        }
        try self.init(of: PresentLists(directory: directory, roots: roots), signers, ledger)
    }

    /// - Parameter signers: Those of the keys that lists are made with here.
    init(of lists: PresentLists, _ signers: [Certificate], _ ledger: Ledger) throws(LedgerError) {
        // Once: a list may have some 300,000 certificates.
        let own = Set(signers.compactMap(\.subjectKeyIdentifier))
        let listed = lists.signed.map { (issuer: $0.root.subjectKeyIdentifier, serials: $0.list.serials) }
        for certificate in try ledger.liveRevocations()
        where !listed.contains(where: { $0.issuer == certificate.issuer && $0.serials.contains(certificate.serial) }) {
            if own.contains(certificate.issuer) {
                unlisted.append(certificate)
            } else {
                foreign.append(certificate)
            }
        }
        for (list, root) in lists.signed {
            unknown += try ledger.unknown(list, of: root.subjectKeyIdentifier ?? "", endingBefore: root.notAfter).count
        }
    }
}

/// The lists in a CA's directory as they were read at one moment.
struct PresentLists: Sendable {
    /// Those that a root has signed, with it.
    let signed: [(list: RevocationList, root: Certificate)]
    /// All of them, in the order of the file.
    let all: [RevocationList]

    /// As they came, in PEM form; nil where there is no file.
    let pem: [UInt8]?

    /// - Parameter directory: The CA's.
    /// - Throws: with the way back, where the file is damaged.
    init(directory: String, roots: [Certificate]) throws(LedgerError) {
        let path = "\(directory)/\(EmbeddedCA.revocationsFile)"
        do throws(IdentityError) {
            pem = try EmbeddedCA.revocationLists(directory: directory)
        } catch {
            throw LedgerError(.damaged, Self.damage(path, error.message))
        }
        guard let pem else {
            (signed, all) = ([], [])
            return
        }
        do throws(IdentityError) {
            all = try RevocationList.all(pem: pem)
        } catch {
            throw LedgerError(.damaged, Self.damage(path, pem.isEmpty ? "it is empty" : error.message))
        }
        var signed: [(list: RevocationList, root: Certificate)] = []
        for list in all {
            if let root = roots.first(where: { list.isSigned(by: $0) }) {
                signed.append((list, root))
            } else if let root = roots.first(where: { $0.subjectKeyIdentifier == list.issuer }) {
                throw LedgerError(
                    .damaged,
                    Self.damage(
                        path,
                        "it says that \"\(root.subject)\" made it, but was not signed by it, or was changed"
                    )
                )
            }
        }
        self.signed = signed
    }

    private static func damage(_ path: String, _ reason: String) -> String {
        "the revocation list \(path) cannot be used: \(reason). Nobody is given it, and none is written over it. Put a copy of it back; without "
            + "one: `mv \(path) \(path).damaged`, then `bootstrap revoke`, whose list has what the ledger knows, and what the lists of the "
            + "devices say that it visits"
    }
}

extension ListComparison {
    /// What `bootstrap revoke` sets right, for people; nil where there is nothing.
    package var remark: String? {
        if !unlisted.isEmpty {
            return
                "no device refuses \(counted(unlisted.count, "certificate")) yet that the ledger has as revoked: a command was ended "
                + "before it had written the list. `bootstrap revoke`, without a name, writes it and brings it to everybody"
        }
        guard unknown > 0 else { return nil }
        return
            "the CA's revocation list has \(counted(unknown, "certificate")) that the ledger does not know to be revoked: an earlier copy of it "
            + "was put back. `bootstrap revoke`, without a name, takes over what the list says"
    }

    /// What is to be said of certificates that come on no list, for people; nil where there are none.
    package static func remark(onForeign certificates: [LedgerCertificate]) -> String? {
        guard !certificates.isEmpty else { return nil }
        let named = certificates.prefix(20).map {
            "serial \($0.serial) of \($0.identity), accepted until \(describe(time: $0.notAfter))"
        }
        let more = certificates.count > named.count ? "; and \(counted(certificates.count - named.count, "other"))" : ""
        return """
            \(counted(certificates.count, "revoked certificate")) can be put on no list here, since no key that is here has signed \
            \(certificates.count == 1 ? "it" : "them") (another issuer, or a CA whose key is gone): whoever trusts the one that has still accepts \
            \(named.joined(separator: "; "))\(more). Revoke there, where that can be done; else have everybody forget that root: take it out of \
            the roots that are given out, and `bootstrap renew --all`
            """
    }
}
