import MeshIdentity
import Platform

/// What somebody has to look at: a certificate that was shown for a renewal by somebody who is not, or not the only
/// one, who has the device's key; or new ones that were asked for, and not taken.
///
/// It stands until its certificate or its device is revoked, or the device is enrolled again; the last kind also until
/// the device has taken a new certificate.
package struct LedgerAlarm: Hashable, Sendable, Encodable {
    package enum Kind: String, Hashable, Sendable, Encodable {
        /// The device has acknowledged a later one.
        case forked
        /// The ledger does not know it.
        case unknown
        /// The device has said that it did not store the new ones that it was given. This is the one that it has.
        case refused

        init?(_ place: CertificateLine.Place) {
            switch place {
            case .current, .arrived: return nil
            case .forked: self = .forked
            case .unknown: self = .unknown
            }
        }

        /// For the ledger's events.
        var event: String {
            switch self {
            case .forked: "a certificate that was replaced was shown for a renewal, and refused"
            case .unknown: "a certificate that is not in the ledger was shown for a renewal, and refused"
            case .refused: "it did not take the new certificate that it was given"
            }
        }

        /// What whoever has shown it is told.
        func refusal(of shown: CertificateName, _ device: LedgerDevice) -> LedgerError {
            switch self {
            case .refused: LedgerError(.limit, "\(device.name): it has not taken the last certificate")
            case .forked:
                LedgerError(
                    .forked,
                    "\(device.name): a replaced certificate; its key is in two places (its serial is \(shown.serial)). The device has acknowledged a later "
                        + "one. `bootstrap renew \(device.name)`, over SSH, gives the machine that has the recorded host key a new one"
                )
            case .unknown:
                LedgerError(
                    .unknownCertificate,
                    "\(device.name): its certificate is not in the ledger (its serial is \(shown.serial)). `bootstrap renew \(device.name)`, over SSH, "
                        + "gives the machine that has the recorded host key a new one"
                )
            }
        }
    }

    package var kind: Kind
    package var device: String
    /// The certificate that was shown: its issuer's key, in hexadecimal.
    package var issuer: String
    /// Its serial number, in hexadecimal.
    package var serial: String
    /// Seconds since 1970.
    package var firstAt: Int64
    /// Seconds since 1970.
    package var lastAt: Int64
    /// How often it was shown, where within a minute it counts once; or how many were refused.
    package var count: Int64
    /// Why they were refused, in the device's words.
    package var detail: String?

    /// What has happened, and what to do, for people.
    package var text: String {
        let times = "\(counted(Int(clamping: count), "time")), counted once a minute, last \(describe(time: lastAt))"
        let when = count == 1 ? describe(time: firstAt) : times
        switch kind {
        case .refused:
            let many = count == 1 ? "a new certificate" : "\(count) new certificates, one after the other,"
            return """
                \(device): it was given \(many) and did not take \(count == 1 ? "it" : "them") (\(detail.map { "\($0); " } ?? "")last \(describe(time: lastAt))). \
                It goes on with the one it has until that ends. Find out why (bootstrap doctor \(device)), then: bootstrap renew \(device). If the \
                device knows nothing of it, somebody else has its key: revoke it (bootstrap revoke \(device)), and enroll it with --reinstate
                """
        case .forked:
            return """
                \(device): a renewal was asked for with a certificate that it has replaced since (serial \(serial); \(when)), and refused. \
                Its key is used in two places: a copy or a backup of the machine, or a thief. Renew it by name over SSH, which goes by its host \
                key and revokes its earlier certificates everywhere (bootstrap renew \(device)), or revoke it (bootstrap revoke \(device))
                """
        case .unknown:
            return """
                \(device): a renewal was asked for with a certificate that the ledger does not know (serial \(serial); \(when)), and refused. \
                Was the ledger put back from a copy? Then: bootstrap renew \(device), for a new one over SSH. If not, somebody else signs with the CA's key
                """
        }
    }
}

extension Ledger {
    /// Those that stand; the latest first.
    ///
    /// - Parameter device: nil is all.
    package func alarms(of device: String? = nil) throws(LedgerError) -> [LedgerAlarm] {
        try read { (database) throws(LedgerError) in try alarms(of: device, in: database) }
    }

    func alarms(of device: String?, in database: borrowing SQLiteDatabase) throws(LedgerError) -> [LedgerAlarm] {
        // What is revoked is refused everywhere, and needs nobody any more.
        try database.rows(
            """
            SELECT kind, device, issuer, serial, first_at, last_at, count, detail FROM alarms
            WHERE (?1 IS NULL OR device = ?1) AND NOT EXISTS (
                SELECT 1 FROM certificates WHERE certificates.issuer = alarms.issuer AND certificates.serial = alarms.serial
                AND state = 'revoked'
            ) AND NOT EXISTS (SELECT 1 FROM devices WHERE name = device AND revoked_at IS NOT NULL)
            ORDER BY last_at DESC
            """,
            [SQLiteValue(device)]
        ) { row in
            LedgerAlarm(
                // The table's CHECK allows these only.
                kind: .init(rawValue: row.text(0)) ?? .unknown,
                device: row.text(1),
                issuer: row.text(2),
                serial: row.text(3),
                firstAt: row.integer(4),
                lastAt: row.integer(5),
                count: row.integer(6),
                detail: row.textIfAny(7)
            )
        }
    }

    /// How long an alarm that is shown again is not written down again, in seconds: whoever asks without end does not
    /// write without end.
    private static let alarmInterval: Int64 = 60

    /// Whether the alarm is there, as of just now.
    func isCounted(
        _ shown: CertificateName,
        of device: LedgerDevice,
        in database: borrowing SQLiteDatabase
    ) throws(LedgerError) -> Bool {
        let last = try database.rows(
            "SELECT last_at FROM alarms WHERE device = ? AND issuer = ? AND serial = ? AND kind <> 'refused'",
            [.text(device.name), .text(shown.issuer), .text(shown.serial)]
        ) { $0.integer(0) }.first
        // Not one that a wrong clock has put into the future.
        return last.map { $0 <= clock.seconds && clock.seconds.subtractingSaturating($0) < Self.alarmInterval } ?? false
    }

    /// - Returns: what whoever asked is told.
    @discardableResult
    func raise(
        _ kind: LedgerAlarm.Kind,
        _ device: LedgerDevice,
        _ shown: CertificateName,
        detail: String? = nil,
        by command: String,
        in database: borrowing SQLiteDatabase
    ) throws(LedgerError) -> LedgerError {
        let now = clock.seconds
        let key: [SQLiteValue] = [
            .text(device.name), .text(shown.issuer), .text(shown.serial), .text(kind.rawValue), .integer(now),
            SQLiteValue(detail),
        ]
        let repeated = try database.execute(
            """
            UPDATE alarms SET last_at = ?5, count = count + 1, detail = ?6
            WHERE device = ?1 AND issuer = ?2 AND serial = ?3 AND kind = ?4
            """,
            key
        )
        if repeated == 0 {
            try database.execute(
                """
                INSERT INTO alarms (device, issuer, serial, kind, first_at, last_at, count, detail)
                VALUES (?1, ?2, ?3, ?4, ?5, ?5, 1, ?6)
                """,
                key
            )
            // One line for each certificate, however often it comes.
            try note(
                "ALARM: \(kind.event)",
                by: command,
                device: device.name,
                identity: device.identity,
                serial: shown.serial,
                in: database
            )
        }
        return kind.refusal(of: shown, device)
    }

    /// The device has an identity that is its own again, or is gone.
    func settleAlarms(of device: String, in database: borrowing SQLiteDatabase) throws(LedgerError) {
        try database.execute("DELETE FROM alarms WHERE device = ?", [.text(device)])
    }

    /// The device has taken a new certificate.
    func settleRefusals(of device: String, in database: borrowing SQLiteDatabase) throws(LedgerError) {
        try database.execute("DELETE FROM alarms WHERE device = ? AND kind = 'refused'", [.text(device)])
    }
}
