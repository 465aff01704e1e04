/// What becomes of the revocation lists in one place when others arrive: of each root the newest stays, so that nothing
/// that was revoked is accepted again because somebody brought an older list, or the list of one CA only.
package struct RevocationListUpdate: Sendable {
    /// The lists to keep, in PEM form.
    package let pem: [UInt8]
    /// That a list which arrived is older than the one that stays, for people; nil: none is.
    package let remark: String?

    /// - Parameters:
    ///   - present: What is there, in PEM form; nil without any. A damaged text counts as none.
    ///   - given: What has arrived, in PEM form. Lists of keys that are no roots here are kept as they came: a root may
    ///     follow.
    ///   - roots: Who may have signed lists.
    /// - Throws: ``IdentityError`` when a list is damaged, names a root that has not signed it, or all of it is too
    ///   long.
    package init(of present: [UInt8]?, with given: [UInt8], roots: [Certificate]) throws(IdentityError) {
        let arrived = try RevocationList.all(pem: given)
        // Refuses what a root has not signed.
        _ = try Revocations(pem: given, roots: roots)
        let former = present.flatMap { try? RevocationList.all(pem: $0) } ?? []
        var kept: [RevocationList] = []
        var remark: String?
        for list in arrived {
            let newer = former.filter { other in
                roots.contains { list.isSigned(by: $0) && other.isSigned(by: $0) } && list.isSuperseded(by: other)
            }.max { $1.isNewer(than: $0) }
            if let newer {
                remark =
                    "the revocation list number \(list.number) is older than the one in use (number \(newer.number)), which stays: it may "
                    + "have what was revoked since"
            }
            kept.append(newer ?? list)
        }
        // What arrived says nothing of these, and does not take them back.
        for other in former {
            guard let root = roots.first(where: { other.isSigned(by: $0) }),
                !arrived.contains(where: { $0.isSigned(by: root) })
            else { continue }
            kept.append(other)
        }
        pem = kept.elementsEqual(arrived, by: ===) ? given : kept.flatMap(\.pem)
        self.remark = remark
        guard pem.count <= RevocationList.maximumLength else {
            throw IdentityError(
                .refused,
                "the revocation lists have \(pem.count) bytes, which is over the limit of \(RevocationList.maximumLength)"
            )
        }
    }
}

extension RevocationList {
    /// Whether `other`, of the same issuer, is to stay where this one arrives.
    fileprivate func isSuperseded(by other: RevocationList) -> Bool {
        if other.isNewer(than: self) { return true }
        // The same number twice: from a ledger that was put back. The one that knows more is the safe one.
        return !isNewer(than: other) && !other.serials.isSubset(of: serials)
    }
}
