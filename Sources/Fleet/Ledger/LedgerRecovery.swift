package import MeshIdentity
import Platform

/// What the ledger learns from the CA's own revocation lists. Where it was lost, or an earlier copy of it was put back,
/// the lists beside the CA's certificate and on devices still say what was revoked.
extension Ledger {
    /// Takes over what a list says and this ledger does not know. A device whose certificate is on it counts as revoked
    /// from then on, unless the list says that only this certificate was taken back.
    ///
    /// Where the ledger knows it all, nothing is written, and no other writer waited for.
    ///
    /// - Parameters:
    ///   - list: Its signature was verified.
    ///   - issuer: The identifier of the key that signed it, in hexadecimal.
    ///   - end: When the last certificate of that key ends, where the list does not say, in seconds since 1970.
    ///   - place: Where the list was found, for people.
    /// - Returns: How many certificates this ledger had not as revoked.
    package func takeOver(
        _ list: RevocationList,
        of issuer: String,
        endingBefore end: Int64,
        from place: String
    ) throws(LedgerError) -> Int {
        guard let number = Int64(list.number, radix: 16), number < Int64.max else {
            throw LedgerError(
                .invalid,
                "the revocation list of \(place) has the number 0x\(list.number), after which there can be none"
            )
        }
        // A list of ours is good for longer than any certificate on it.
        let bound = min(list.nextUpdate ?? end, end)
        let isKnown = try snapshot { (database) throws(LedgerError) in
            let last = try lastListNumber(of: issuer, in: database)
            guard last >= number else { return false }
            return try unknown(list, of: issuer, endingBefore: bound, in: database).isEmpty
        }
        guard !isKnown else { return 0 }
        return try write { (database) throws(LedgerError) in
            if try lastListNumber(of: issuer, in: database) < number {
                try setLastListNumber(number, of: issuer, in: database)
            }
            let unknown = try unknown(list, of: issuer, endingBefore: bound, in: database)
            for entry in unknown {
                try takeOver(entry, of: issuer, endingBefore: bound, from: place, in: database)
            }
            return unknown.count
        }
    }

    /// What a list has and this ledger has not as revoked.
    ///
    /// - Parameters:
    ///   - list: Its signature was verified.
    ///   - issuer: The identifier of the key that signed it, in hexadecimal.
    ///   - end: When the last certificate of that key ends, where the list does not say, in seconds since 1970.
    package func unknown(
        _ list: RevocationList,
        of issuer: String,
        endingBefore end: Int64
    ) throws(LedgerError) -> [RevokedCertificate] {
        let bound = min(list.nextUpdate ?? end, end)
        return try snapshot { (database) throws(LedgerError) in
            try unknown(list, of: issuer, endingBefore: bound, in: database)
        }
    }

    private func unknown(
        _ list: RevocationList,
        of issuer: String,
        endingBefore bound: Int64,
        in database: borrowing SQLiteDatabase
    ) throws(LedgerError) -> [RevokedCertificate] {
        let states = Dictionary(
            try database.rows("SELECT serial, state FROM certificates WHERE issuer = ?", [.text(issuer)]) {
                ($0.text(0), $0.text(1))
            },
            uniquingKeysWith: { first, _ in first }
        )
        // As the list itself: a clock that runs ahead has nothing taken back.
        let hasEnded = bound <= clock.seconds - Self.keptAfterEnd
        guard list.serials.contains(where: { isUnknown($0, states, hasEnded) }) else { return [] }
        return list.entries.filter { isUnknown($0.serial, states, hasEnded) }
    }

    /// Of a number that nobody knows, and that has ended, there is nothing to be kept.
    private func isUnknown(_ serial: String, _ states: [String: String], _ hasEnded: Bool) -> Bool {
        guard let state = states[serial] else { return !hasEnded }
        return state != LedgerCertificate.State.revoked.rawValue
    }

    private func takeOver(
        _ entry: RevokedCertificate,
        of issuer: String,
        endingBefore bound: Int64,
        from place: String,
        in database: borrowing SQLiteDatabase
    ) throws(LedgerError) {
        let reason = "on the revocation list of \(place)"
        let changed = try database.execute(
            "UPDATE certificates SET state = 'revoked', changed_at = ?, reason = ? WHERE issuer = ? AND serial = ?",
            [.integer(entry.revokedAt), .text(reason), .text(issuer), .text(entry.serial)]
        )
        if changed == 0 {
            try database.execute(
                """
                INSERT INTO certificates (issuer, serial, identity, not_before, not_after, issued_at, command, state, changed_at, reason)
                VALUES (?, ?, '(not known)', ?, ?, ?, 'revocation list', 'revoked', ?, ?)
                """,
                [
                    .text(issuer), .text(entry.serial), .integer(entry.revokedAt), .integer(bound),
                    .integer(entry.revokedAt), .integer(entry.revokedAt), .text(reason),
                ]
            )
        }
        // `revoke` puts a device's present certificate on the list. What is the present one in an earlier copy of the
        // ledger may have been replaced since, and revoked for that, by a device that is trusted: the list says so.
        // Where it does not, such as one that an earlier release has made, the device counts as revoked until it is
        // enrolled again, which is the safe side.
        if entry.reason != .superseded {
            try database.execute(
                "UPDATE devices SET revoked_at = ?, revocation_reason = ? WHERE serial = ? AND revoked_at IS NULL",
                [.integer(entry.revokedAt), .text(reason), .text(entry.serial)]
            )
        }
        try note("revoked: \(reason)", by: "revocation list", serial: entry.serial, in: database)
    }

    /// Whoever is to be refused now, by any CA that has signed for this ledger.
    package func revokedCertificates() throws(LedgerError) -> Set<CertificateName> {
        try read { (database) throws(LedgerError) in
            Set(
                try database.rows(
                    "SELECT issuer, serial FROM certificates WHERE state = 'revoked' AND not_after > ?",
                    // An hour for clocks that are behind.
                    [.integer(clock.seconds - 3600)]
                ) { CertificateName(issuer: $0.text(0), serial: $0.text(1)) }
            )
        }
    }

    func lastListNumber(of issuer: String, in database: borrowing SQLiteDatabase) throws(LedgerError) -> Int64 {
        try value("revocation list of \(issuer)", in: database).flatMap { Int64($0) } ?? 0
    }

    func setLastListNumber(
        _ number: Int64,
        of issuer: String,
        in database: borrowing SQLiteDatabase
    ) throws(LedgerError) {
        try setValue("revocation list of \(issuer)", "\(number)", in: database)
    }
}
