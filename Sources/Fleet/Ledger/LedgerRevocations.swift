import MeshIdentity
import Platform

/// What `revoke` is to take back.
package struct RevocationOrder: Sendable {
    /// Devices by their names: with every certificate that they have.
    package var devices: [String]
    /// Certificates by their serial numbers, in lower-case hexadecimal; zeros in front do not count.
    package var serials: [String]
    /// Names or SPIFFE IDs of which no device is recorded, or none any more: with every certificate of theirs that is
    /// valid.
    package var unrecorded: [String]
    /// Why, for people.
    package var reason: String
    /// Which command does it.
    package var command: String

    package init(
        devices: [String] = [],
        serials: [String] = [],
        unrecorded: [String] = [],
        reason: String,
        by command: String
    ) {
        self.devices = devices
        self.serials = serials
        self.unrecorded = unrecorded
        self.reason = reason
        self.command = command
    }
}

/// What became of one part of a ``RevocationOrder``.
package struct LedgerRevocation: Sendable {
    /// nil: one certificate alone.
    package var device: LedgerDevice?
    /// What was revoked just now.
    package var revoked: [LedgerCertificate] = []
    /// What was revoked before, and has not ended.
    package var before: [LedgerCertificate] = []

    package var certificates: [LedgerCertificate] { revoked + before }
}

extension Ledger {
    /// Revokes everything that is named, or nothing: who is named and not known is found before anything is written.
    /// What is revoked already stays so, and is no error.
    ///
    /// - Returns: The devices, and then the certificates, in the order of `order`.
    package func revoke(_ order: RevocationOrder) throws(LedgerError) -> [LedgerRevocation] {
        try write { (database) throws(LedgerError) in
            let now = clock.seconds
            var certificates: [[LedgerCertificate]] = []
            for serial in order.serials { certificates.append(try find(serial, at: now, in: database)) }
            var cut: Set<String> = []
            for name in order.unrecorded {
                let found = try find(unrecorded: name, at: now, in: database)
                certificates.append(found)
                cut.formUnion(found.compactMap(\.device))
            }
            var done: [LedgerRevocation] = []
            for name in order.devices { done.append(try revokeDevice(name, order, at: now, in: database)) }
            for found in certificates {
                var revocation = LedgerRevocation()
                for certificate in found {
                    let key: [SQLiteValue] = [.text(certificate.issuer), .text(certificate.serial)]
                    let revoked = try revoke(
                        where: "issuer = ? AND serial = ?",
                        key,
                        reason: order.reason,
                        by: order.command,
                        in: database
                    )
                    revocation.revoked += revoked
                    if revoked.isEmpty { revocation.before.append(certificate) }
                }
                done.append(revocation)
            }
            // A conversation that has got one of them, and is not over, gets nothing more.
            for name in cut {
                try database.execute(
                    "DELETE FROM last_issued WHERE device = ?1 AND ?1 NOT IN (SELECT name FROM devices)",
                    [.text(name)]
                )
            }
            return done
        }
    }

    /// - Returns: Those of a name without a record that have not ended; at least one.
    private func find(
        unrecorded name: String,
        at now: Int64,
        in database: borrowing SQLiteDatabase
    ) throws(LedgerError) -> [LedgerCertificate] {
        guard try devices(where: "name = ?1 OR identity = ?1", [.text(name)], in: database).isEmpty else {
            throw LedgerError(.conflict, "'\(name)' was enrolled meanwhile; nothing was revoked: try again")
        }
        let found = try certificates(ofUnrecorded: name, at: now, in: database)
        guard !found.isEmpty else {
            throw LedgerError(
                .invalid,
                "'\(name)' is not enrolled, and no certificate of it is valid; nothing was revoked"
            )
        }
        return found
    }

    private func certificates(
        ofUnrecorded name: String,
        at now: Int64,
        in database: borrowing SQLiteDatabase
    ) throws(LedgerError) -> [LedgerCertificate] {
        try certificates(
            where: "(device = ?1 OR identity = ?1) AND not_after > ?2",
            [.text(name), .integer(now)],
            in: database
        )
    }

    /// Whether there are certificates that have not ended, of a name or a SPIFFE ID without a record: its device was
    /// unenrolled, its enrolment was cut, or it was made by hand.
    package func hasCertificates(ofUnrecorded name: String) throws(LedgerError) -> Bool {
        try read { (database) throws(LedgerError) in
            try !certificates(ofUnrecorded: name, at: clock.seconds, in: database).isEmpty
        }
    }

    /// Those of enrolments that are under way or were cut: valid, and of no device.
    package func unfinishedEnrolments() throws(LedgerError) -> [LedgerCertificate] {
        try read { (database) throws(LedgerError) in
            try certificates(
                where: """
                    state <> 'revoked' AND not_after > ? AND device IN (SELECT device FROM last_issued)
                    AND device NOT IN (SELECT name FROM devices)
                    """,
                [.integer(clock.seconds)],
                in: database
            )
        }
    }

    /// - Returns: Those of this number that have not ended; at least one.
    private func find(
        _ serial: String,
        at now: Int64,
        in database: borrowing SQLiteDatabase
    ) throws(LedgerError) -> [LedgerCertificate] {
        let number = String(serial.drop { $0 == "0" })
        let all = try certificates(where: "ltrim(serial, '0') = ?", [.text(number)], in: database)
        let found = all.filter { $0.notAfter > now }
        guard found.isEmpty else { return found }
        if let ended = all.first {
            throw LedgerError(
                .invalid,
                "the certificate \(ended.serial) of \(ended.identity) ended at \(describe(time: ended.notAfter)): everybody refuses it "
                    + "without a list; nothing was revoked"
            )
        }
        throw LedgerError(
            .invalid,
            "no certificate in the ledger has the serial number \(serial); `bootstrap status DEST` shows a device's, and nothing was "
                + "revoked"
        )
    }

    private func revokeDevice(
        _ name: String,
        _ order: RevocationOrder,
        at now: Int64,
        in database: borrowing SQLiteDatabase
    ) throws(LedgerError) -> LedgerRevocation {
        let changed = try database.execute(
            "UPDATE devices SET revoked_at = ?, revocation_reason = ? WHERE name = ?",
            [.integer(now), .text(order.reason), .text(name)]
        )
        guard changed > 0, let device = try devices(where: "name = ?", [.text(name)], in: database).first else {
            throw LedgerError(.invalid, "there is no device '\(name)' in the ledger; nothing was revoked")
        }
        try note("revoked: \(order.reason)", by: order.command, device: name, in: database)
        var revocation = LedgerRevocation(device: device)
        revocation.before = try certificates(
            where: "device = ? AND state = 'revoked' AND not_after > ?",
            [.text(name), .integer(now)],
            in: database
        )
        revocation.revoked = try revoke(
            where: "device = ?",
            [.text(name)],
            reason: order.reason,
            by: order.command,
            in: database
        )
        return revocation
    }

    /// Marks a device as revoked, and revokes every certificate of it that has not ended.
    ///
    /// - Returns: Those certificates; empty when none is known.
    package func revokeDevice(
        named name: String,
        reason: String,
        by command: String
    ) throws(LedgerError) -> [LedgerCertificate] {
        try revoke(RevocationOrder(devices: [name], reason: reason, by: command)).flatMap(\.revoked)
    }

    /// What is revoked and has not ended, by whomever it was signed.
    package func liveRevocations() throws(LedgerError) -> [LedgerCertificate] {
        try read { (database) throws(LedgerError) in
            try certificates(where: "state = 'revoked' AND not_after > ?", [.integer(clock.seconds)], in: database)
        }
    }

    /// How long after its end a certificate belongs on the list, by this machine's clock, in seconds: where that runs
    /// ahead, what has not ended is not accepted again for it.
    package static let keptAfterEnd: Int64 = 30 * 24 * 60 * 60

    /// What belongs on an issuer's revocation list: a certificate that has long ended is refused for that.
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

    /// Of each device that is enrolled, by name, whether it is revoked.
    package func deviceRevocations() throws(LedgerError) -> [String: Bool] {
        try read { (database) throws(LedgerError) in
            let rows = try database.rows("SELECT name, revoked_at FROM devices") {
                ($0.text(0), $0.integerIfAny(1) != nil)
            }
            return Dictionary(rows, uniquingKeysWith: { first, _ in first })
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
