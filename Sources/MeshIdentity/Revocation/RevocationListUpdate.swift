import Platform

/// What becomes of the revocation lists in one place when others arrive: of each root the newest stays, so that nothing
/// that was revoked is accepted again because somebody brought an older list, or the list of one CA only.
///
/// A list leaves out what had ended when it was made, by the clock of whoever made it. Where that clock is ahead of
/// this one, what it leaves out may be valid here still: what it revokes holds, and the lists before it stay beside it,
/// until the time that it says has come.
package struct RevocationListUpdate: Sendable {
    /// How far ahead of this machine's clock a list may have been made, in seconds: clocks of a mesh differ by that.
    package static let tolerance: Int64 = 300

    /// The lists to keep, in PEM form.
    package let pem: [UInt8]
    /// That a list which arrived is older than the one that stays, for people; nil: none is.
    package let remark: String?
    /// That the newest list was made by a clock that is ahead of this one, for people; nil: it was not.
    package let clockRemark: String?

    /// - Parameters:
    ///   - present: What is there, in PEM form; nil without any. A damaged text counts as none.
    ///   - given: What has arrived, in PEM form. Lists of keys that are no roots here are kept as they came: a root may
    ///     follow.
    ///   - roots: Who may have signed lists.
    ///   - now: Seconds since 1970; nil is the clock.
    /// - Throws: ``IdentityError`` when a list is damaged, names a root that has not signed it, or all of it is too
    ///   long.
    package init(
        of present: [UInt8]?,
        with given: [UInt8],
        roots: [Certificate],
        at now: Int64? = nil
    ) throws(IdentityError) {
        let now = now ?? WallClock.system.seconds
        // Refuses what a root has not signed.
        _ = try Revocations(pem: given, roots: roots)
        let arrived = try SignedList.all(pem: given, roots: roots)
        let former = present.flatMap { try? SignedList.all(pem: $0, roots: roots) } ?? []
        var kept: [RevocationList] = []
        var seen: Set<Int> = []
        var (remark, clockRemark) = (String?.none, String?.none)
        for item in arrived {
            guard let root = item.root else {
                kept.append(item.list)
                continue
            }
            guard seen.insert(root).inserted else { continue }
            let here = former.filter { $0.root == root }.map(\.list)
            let new = arrived.filter { $0.root == root }.map(\.list)
            let choice = Choice(among: here, and: new, at: now)
            kept += choice.kept
            remark = choice.older ?? remark
            clockRemark = choice.ahead ?? clockRemark
        }
        // What arrived says nothing of these, and does not take them back.
        kept += former.filter { item in item.root.map { !seen.contains($0) } ?? false }.map(\.list)
        let arrivedLists = arrived.map(\.list)
        if kept.elementsEqual(arrivedLists, by: ===) {
            pem = given
        } else if let present, kept.count == former.count, Set(kept.map(\.pem)) == Set(former.map(\.list.pem)) {
            pem = present
        } else {
            pem = kept.flatMap(\.pem)
        }
        self.remark = remark
        self.clockRemark = clockRemark
        guard pem.count <= RevocationList.maximumLength else {
            throw IdentityError(
                .refused,
                "the revocation lists have \(pem.count) bytes, which is over the limit of \(RevocationList.maximumLength)"
            )
        }
    }

    /// What is to be said of it, for people; nil: nothing.
    package var warning: String? { remark ?? clockRemark }
}

/// A list with the root that has signed it.
private struct SignedList {
    let list: RevocationList
    /// Its place among the roots; nil: none of them has signed it.
    let root: Int?

    static func all(pem: [UInt8], roots: [Certificate]) throws(IdentityError) -> [SignedList] {
        try RevocationList.all(pem: pem).map { list in
            SignedList(list: list, root: roots.firstIndex { list.isSigned(by: $0) })
        }
    }
}

/// Which of the lists of one root stay.
private struct Choice {
    var kept: [RevocationList] = []
    /// See ``RevocationListUpdate/remark``.
    var older: String?
    /// See ``RevocationListUpdate/clockRemark``.
    var ahead: String?

    /// - Parameters:
    ///   - here: Those that are there.
    ///   - new: Those that have arrived; at least one.
    ///   - now: Seconds since 1970.
    init(among here: [RevocationList], and new: [RevocationList], at now: Int64) {
        guard let arrived = Self.newest(of: new) else { return }
        let present = Self.newest(of: here)
        // Of the same number the one that is there stays, unless the other one knows more.
        let stays = present.map { arrived.isSuperseded(by: $0) } ?? false
        let first = stays ? present ?? arrived : arrived
        if stays, let present {
            older =
                "the revocation list number \(arrived.number) is older than the one in use (number \(present.number)), which stays: it may "
                + "have what was revoked since"
        }
        kept = [first]
        guard first.isAhead(of: now) else { return }
        if !stays { ahead = Self.remark(on: first, at: now) }
        // The oldest have most of what is left out. The same one twice counts once.
        var known = first.serials
        let others = (here + new).filter { $0 !== first }.enumerated().sorted {
            $1.element.isNewer(than: $0.element)
                || (!$0.element.isNewer(than: $1.element) && $0.offset < $1.offset)
        }
        for (_, list) in others where !list.serials.isSubset(of: known) {
            kept.append(list)
            known.formUnion(list.serials)
        }
    }

    private static func newest(of lists: [RevocationList]) -> RevocationList? {
        lists.reduce(nil) { newest, list in
            guard let newest else { return list }
            return newest.isSuperseded(by: list) ? list : newest
        }
    }

    private static func remark(on list: RevocationList, at now: Int64) -> String {
        "the revocation list number \(list.number) was made \(describe(seconds: list.lastUpdate.subtractingSaturating(now))) ahead of this "
            + "machine's clock: what it revokes is refused, and so is all that was revoked before, which it may leave out as ended. "
            + "Set the clock that is wrong; where it is the operator's, run `bootstrap revoke` again then"
    }
}

extension RevocationList {
    /// Whether `other`, of the same issuer, is to stay where this one arrives.
    fileprivate func isSuperseded(by other: RevocationList) -> Bool {
        if other.isNewer(than: self) { return true }
        // The same number twice: from a ledger that was put back. The one that knows more is the safe one.
        return !isNewer(than: other) && !other.serials.isSubset(of: serials)
    }

    /// Whether it was made by a clock that is ahead: it leaves out what has not ended yet.
    fileprivate func isAhead(of now: Int64) -> Bool {
        lastUpdate > now.addingSaturating(RevocationListUpdate.tolerance)
    }
}
