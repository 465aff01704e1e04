import MeshIdentity
import Platform

extension Ledger {
    /// Marks a device as revoked, and revokes every certificate of it that has not ended.
    ///
    /// - Returns: Those certificates; empty when none is known.
    package func revokeDevice(
        named name: String,
        reason: String,
        by command: String
    ) throws(LedgerError) -> [LedgerCertificate] {
        try write { (database) throws(LedgerError) in
            let changed = try database.execute(
                "UPDATE devices SET revoked_at = ?, revocation_reason = ? WHERE name = ?",
                [.integer(clock.seconds), .text(reason), .text(name)]
            )
            guard changed > 0 else { throw LedgerError(.invalid, "there is no device '\(name)' in the ledger") }
            try note("revoked: \(reason)", by: command, device: name, in: database)
            return try revoke(where: "device = ?", [.text(name)], reason: reason, by: command, in: database)
        }
    }

    /// Revokes one certificate, or those of several issuers with the same number.
    ///
    /// - Parameter serial: Lower-case hexadecimal.
    /// - Parameter reason: Why, for people.
    /// - Parameter command: Which command did it.
    /// - Returns: What was revoked; empty when there is nothing of this number that is valid and not revoked.
    package func revokeCertificate(
        serial: String,
        reason: String,
        by command: String
    ) throws(LedgerError) -> [LedgerCertificate] {
        try write { (database) throws(LedgerError) in
            try revoke(where: "serial = ?", [.text(serial)], reason: reason, by: command, in: database)
        }
    }

    /// What belongs on an issuer's revocation list: a certificate that has ended is refused for that.
    ///
    /// - Parameters:
    ///   - issuer: The identifier of its key, in hexadecimal.
    ///   - time: Seconds since 1970. Certificates that ended before then are left out.
    package func revoked(by issuer: String, endingAfter time: Int64) throws(LedgerError) -> [LedgerCertificate] {
        try read { (database) throws(LedgerError) in
            try certificates(
                where: "issuer = ? AND state = 'revoked' AND not_after > ?",
                [.text(issuer), .integer(time)],
                in: database
            )
        }
    }

    /// When the last of an issuer's certificates ends that is not revoked, in seconds since 1970; nil when there is
    /// none.
    package func lastEnd(ofCertificatesBy issuer: String) throws(LedgerError) -> Int64? {
        try read { (database) throws(LedgerError) in
            try database.rows(
                "SELECT max(not_after) FROM certificates WHERE issuer = ? AND state <> 'revoked'",
                [.text(issuer)]
            ) { $0.integerIfAny(0) }.first ?? nil
        }
    }

    /// A number for the next revocation list of an issuer: higher than any before.
    ///
    /// - Parameter least: Where to begin. With the time of day, numbers go on after a ledger was lost or put back.
    package func nextListNumber(of issuer: String, atLeast least: Int64 = 1) throws(LedgerError) -> Int64 {
        try write { (database) throws(LedgerError) in
            let number = max(least, try lastListNumber(of: issuer, in: database) + 1)
            try setLastListNumber(number, of: issuer, in: database)
            return number
        }
    }
}
