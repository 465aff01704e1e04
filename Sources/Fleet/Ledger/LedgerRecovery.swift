package import MeshIdentity
import Platform

/// What the ledger learns from the CA's own revocation lists. Where it was lost, or an earlier copy of it was put back,
/// the lists beside the CA's certificate and on devices still say what was revoked.
extension Ledger {
    /// Takes over what a list says and this ledger does not know. A device whose certificate is on it counts as revoked
    /// from then on.
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
        return try write { (database) throws(LedgerError) in
            if try lastListNumber(of: issuer, in: database) < number {
                try setLastListNumber(number, of: issuer, in: database)
            }
            let known = Set(
                try database.rows(
                    "SELECT serial FROM certificates WHERE issuer = ? AND state = 'revoked'",
                    [.text(issuer)]
                ) { $0.text(0) }
            )
            var count = 0
            for entry in list.entries where !known.contains(entry.serial) {
                if try takeOver(entry, of: issuer, endingBefore: bound, from: place, in: database) { count += 1 }
            }
            return count
        }
    }

    private func takeOver(
        _ entry: RevokedCertificate,
        of issuer: String,
        endingBefore bound: Int64,
        from place: String,
        in database: borrowing SQLiteDatabase
    ) throws(LedgerError) -> Bool {
        let reason = "on the revocation list of \(place)"
        let changed = try database.execute(
            "UPDATE certificates SET state = 'revoked', changed_at = ?, reason = ? WHERE issuer = ? AND serial = ?",
            [.integer(entry.revokedAt), .text(reason), .text(issuer), .text(entry.serial)]
        )
        if changed == 0 {
            // It has ended.
            guard bound > clock.seconds else { return false }
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
        // ledger may have been replaced since, and revoked for that: such a device counts as revoked until it is
        // enrolled again, which is the safe side.
        try database.execute(
            "UPDATE devices SET revoked_at = ?, revocation_reason = ? WHERE serial = ? AND revoked_at IS NULL",
            [.integer(entry.revokedAt), .text(reason), .text(entry.serial)]
        )
        try note("revoked: \(reason)", by: "revocation list", serial: entry.serial, in: database)
        return true
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
