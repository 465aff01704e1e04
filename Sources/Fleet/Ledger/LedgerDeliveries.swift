import MeshIdentity
import Platform
import SSHSignal

/// When a device may have another certificate that has refused one: it says that it did not store it (no space, a
/// damaged root), and goes on with the one before.
///
/// What was refused is revoked, so that whoever has kept it after all has nothing: it counts for no limit, but it
/// stands on the revocation list until it ends. So the wait grows, up to a sixteenth of a certificate's time.
package enum RefusedDelivery {
    /// - Parameters:
    ///   - count: How many were refused since it has taken one.
    ///   - last: When the last was, in seconds since 1970.
    ///   - lifetime: Of that one, in seconds.
    /// - Returns: Seconds since 1970.
    package static func nextAttempt(after count: Int, last: Int64, lifetime: Int64) -> Int64 {
        last.addingSaturating(min(30 << Int64(min(max(count, 1), 20) - 1), max(lifetime, 0) / 16))
    }
}

extension Ledger {
    /// A device has said that it did not store a certificate that was sent to it. Nobody is to accept that one.
    ///
    /// - Parameters:
    ///   - serial: Of the certificate.
    ///   - claim: What it was recorded on.
    ///   - reason: In the device's words.
    ///   - command: Which command has sent it.
    package func deliveryWasRefused(
        _ serial: String,
        of claim: DeviceClaim,
        _ reason: String,
        by command: String
    ) throws(LedgerError) {
        try write { (database) throws(LedgerError) in
            let refused = try database.execute(
                """
                UPDATE certificates SET state = 'revoked', changed_at = ?1, refused_at = ?1, reason = ?2
                WHERE device = ?3 AND serial = ?4 AND state <> 'revoked'
                """,
                [
                    .integer(clock.seconds), .text("the device did not take it: \(reason)"), .text(claim.name),
                    .text(serial),
                ]
            )
            guard refused > 0 else { return }
            // Its machine has no certificate of this name.
            try database.execute(
                "UPDATE last_issued SET host_key_algorithm = NULL, host_key = NULL WHERE device = ? AND serial = ?",
                [.text(claim.name), .text(serial)]
            )
            try note(
                "the device did not take it, and it is revoked: \(reason)",
                by: command,
                device: claim.name,
                serial: serial,
                in: database
            )
            guard let device = try devices(where: "name = ?", [.text(claim.name)], in: database).first else { return }
            let present = try certificates(
                where: "device = ? AND serial = ?",
                [.text(device.name), .text(device.serial ?? "")],
                in: database
            ).first
            try raise(
                .refused,
                device,
                .init(issuer: present?.issuer ?? "", serial: device.serial ?? ""),
                detail: reason,
                by: command,
                in: database
            )
        }
    }

    /// A device has stored a certificate, and could not say all that belongs to an acknowledgement: its node did not
    /// come up.
    package func deliveryWasStored(
        _ serial: String,
        of claim: DeviceClaim,
        by command: String
    ) throws(LedgerError) {
        try write { (database) throws(LedgerError) in
            try check(claim, in: database)
            guard let device = try devices(where: "name = ?", [.text(claim.name)], in: database).first,
                let certificate = try certificates(
                    where: "device = ? AND serial = ? AND state = 'issued'",
                    [.text(claim.name), .text(serial)],
                    in: database
                ).first
            else { return }
            try acknowledge(certificate, device, "stored, but its node did not come up", by: command, in: database)
        }
    }

    /// The device has it. What was issued beside that is superseded: one of these may be the last that was issued,
    /// which stays as it is.
    func acknowledge(
        _ certificate: LedgerCertificate,
        _ device: LedgerDevice,
        _ what: String,
        by command: String,
        in database: borrowing SQLiteDatabase
    ) throws(LedgerError) {
        try database.execute(
            "UPDATE devices SET serial = ?, not_after = ?, renewed_at = ? WHERE name = ?",
            [
                .text(certificate.serial), .integer(certificate.notAfter), .integer(certificate.issuedAt),
                .text(device.name),
            ]
        )
        try supersede(certificatesOf: device.name, except: certificate.serial, in: database)
        try settleRefusals(of: device.name, in: database)
        try note(
            what,
            by: command,
            device: device.name,
            identity: device.identity,
            serial: certificate.serial,
            in: database
        )
    }

    /// - Throws: where it has refused one just now.
    func checkRefusals(of claim: DeviceClaim, in database: borrowing SQLiteDatabase) throws(LedgerError) {
        let since = claim.device.map { $0.renewedAt ?? $0.enrolledAt } ?? 0
        let refused = try database.rows(
            """
            SELECT refused_at, not_after - not_before, reason FROM certificates
            WHERE device = ? AND refused_at >= ? ORDER BY refused_at DESC, rowid DESC
            """,
            [.text(claim.name), .integer(since)]
        ) { (at: $0.integer(0), lifetime: $0.integer(1), reason: $0.text(2)) }
        guard let last = refused.first else { return }
        let next = RefusedDelivery.nextAttempt(after: refused.count, last: last.at, lifetime: last.lifetime)
        // Not one that a wrong clock has put into the future.
        guard clock.seconds < next, last.at <= clock.seconds else { return }
        throw LedgerError(
            .limit,
            "it has not taken the last \(refused.count) certificates (\(last.reason)), and gets the next one not before "
                + "\(describe(time: next)); an operator can renew it at any time, with `bootstrap renew \(claim.name)`"
        )
    }
}
