package import MeshIdentity
import Platform

extension Ledger {
    /// What is known of a name now, for a conversation that is about to begin.
    package func claim(_ name: String) throws(LedgerError) -> DeviceClaim {
        try snapshot { (database) throws(LedgerError) in try claim(name, in: database) }
    }

    func claim(_ name: String, in database: borrowing SQLiteDatabase) throws(LedgerError) -> DeviceClaim {
        DeviceClaim(
            name: name,
            device: try devices(where: "name = ?", [.text(name)], in: database).first,
            lastIssued: try lastIssued(name, in: database),
            outstanding: Set(
                try database.rows(
                    "SELECT serial FROM certificates WHERE device = ? AND state = 'issued'",
                    [.text(name)]
                ) { $0.text(0) }
            )
        )
    }

    /// Why a conversation that stands on `claim` must not go on; nil where it may.
    package func objection(to claim: DeviceClaim) throws(LedgerError) -> LedgerError? {
        try snapshot { (database) throws(LedgerError) in try objection(to: claim, in: database) }
    }

    func objection(
        to claim: DeviceClaim,
        in database: borrowing SQLiteDatabase
    ) throws(LedgerError) -> LedgerError? {
        claim.objection(
            device: try devices(where: "name = ?", [.text(claim.name)], in: database).first,
            lastIssued: try lastIssued(claim.name, in: database),
            others: try claim.machine.map { (machine) throws(LedgerError) in
                try machines(like: machine, besides: claim.name, in: database)
            } ?? []
        )
    }

    /// - Throws: where it does not hold any more. To be called in the transaction that writes.
    func check(_ claim: DeviceClaim, in database: borrowing SQLiteDatabase) throws(LedgerError) {
        if let objection = try objection(to: claim, in: database) { throw objection }
    }

    private func lastIssued(_ name: String, in database: borrowing SQLiteDatabase) throws(LedgerError) -> String? {
        try database.rows("SELECT serial FROM last_issued WHERE device = ?", [.text(name)]) { $0.text(0) }.first
    }

    /// - Parameter hostKey: Of the machine that gets it, where no device's record has it.
    func setLastIssued(
        _ serial: String,
        of name: String,
        to hostKey: MachineKey? = nil,
        in database: borrowing SQLiteDatabase
    ) throws(LedgerError) {
        try database.execute(
            "INSERT OR REPLACE INTO last_issued (device, serial, host_key_algorithm, host_key) VALUES (?, ?, ?, ?)",
            [.text(name), .text(serial), SQLiteValue(hostKey?.algorithm), SQLiteValue(hostKey?.fingerprint)]
        )
    }

    /// - Throws: where the device has as many certificates that are valid as it may have, or has refused one just now.
    func checkLimit(of claim: DeviceClaim, in database: borrowing SQLiteDatabase) throws(LedgerError) {
        if claim.limit == CertificateLimit.byItself { try checkRefusals(of: claim, in: database) }
        let live = try certificates(
            where: "device = ? AND state <> 'revoked' AND not_after > ?",
            [.text(claim.name), .integer(clock.seconds)],
            in: database
        )
        guard live.count >= claim.limit else { return }
        // The device shows one of them.
        let others = live.filter { $0.serial != claim.device?.serial }.sorted { $0.notAfter < $1.notAfter }
        guard let first = others.first ?? live.first else { return }
        throw LedgerError(
            .limit,
            "\(live.count) certificates of it are valid already, and no more than \(claim.limit) may be: the device has asked for "
                + "one after the other and kept none, or somebody renews it without end. The first of them ends \(describe(time: first.notAfter)); "
                + "`bootstrap revoke --serial \(first.serial)` takes it back before"
        )
    }

    // MARK: Renewals that a device asks for

    /// Whether a device that shows a certificate may have a new one now.
    ///
    /// - Parameters:
    ///   - identity: In the certificate that it has shown.
    ///   - shown: Which one that is.
    ///   - command: Which command asks.
    /// - Returns: What the conversation stands on.
    /// - Throws: ``LedgerError``: `invalid` for one that is not enrolled, `revoked`, `limit` where it is not due yet,
    ///   and `forked` where a later certificate than the one it shows has been acknowledged; that is kept as an alarm.
    package func admitRenewal(
        of identity: String,
        showing shown: CertificateName,
        by command: String
    ) throws(LedgerError) -> DeviceClaim {
        // Nearly always there is nothing to write: then it waits for no writer, and none waits for it.
        let seen = try snapshot { (database) throws(LedgerError) in
            try judgeRenewal(of: identity, showing: shown, by: command, writes: false, in: database)
        }
        if let seen { return try seen.get() }
        // What is refused is written down, too: it must not be undone with the rest.
        let outcome = try write { (database) throws(LedgerError) in
            try judgeRenewal(of: identity, showing: shown, by: command, writes: true, in: database)
        }
        guard let outcome else { preconditionFailure("whoever may write decides") }
        return try outcome.get()
    }

    /// - Parameter writes: Whether it may write.
    /// - Returns: nil where it would have to write, and may not.
    private func judgeRenewal(
        of identity: String,
        showing shown: CertificateName,
        by command: String,
        writes: Bool,
        in database: borrowing SQLiteDatabase
    ) throws(LedgerError) -> Result<DeviceClaim, LedgerError>? {
        let found = try devices(where: "identity = ?", [.text(identity)], in: database)
        guard found.count == 1, let device = found.first else {
            throw LedgerError(.invalid, "it is not in the ledger")
        }
        guard device.revokedAt == nil else {
            throw LedgerError(.revoked, "\(device.name) is revoked")
        }
        let certificate = try certificates(
            where: "issuer = ? AND serial = ? AND device = ?",
            [.text(shown.issuer), .text(shown.serial), .text(device.name)],
            in: database
        ).first
        guard certificate?.state != .revoked else {
            throw LedgerError(.revoked, "\(device.name): the certificate \(shown.serial) is revoked")
        }
        let line = CertificateLine(acknowledged: device.serial)
        let place = line.place(of: shown.serial, recorded: certificate?.state)
        if let alarm = LedgerAlarm.Kind(place) {
            if try isCounted(shown, of: device, in: database) { return .failure(alarm.refusal(of: shown, device)) }
            guard writes else { return nil }
            return .failure(try raise(alarm, device, shown, by: command, in: database))
        }
        if place == .arrived, let certificate {
            guard writes else { return nil }
            try acknowledge(
                certificate,
                device,
                "has the certificate, whose acknowledgement was lost",
                by: command,
                in: database
            )
        }
        if let certificate {
            let earliest = EarliestRenewal.time(issuedAt: certificate.issuedAt, notAfter: certificate.notAfter)
            guard clock.seconds >= earliest else {
                return .failure(
                    LedgerError(
                        .limit,
                        "\(device.name): not due before \(describe(time: earliest)): it was issued at "
                            + "\(describe(time: certificate.issuedAt)), and a quarter of its time has to pass; an operator can renew it at any time, "
                            + "with `bootstrap renew \(device.name)`"
                    )
                )
            }
        }
        let standing = try claim(device.name, in: database)
        // What arrived late was written.
        do throws(LedgerError) {
            try checkLimit(of: standing, in: database)
        } catch {
            return .failure(LedgerError(error.code, "\(device.name): \(error.message)"))
        }
        return .success(standing)
    }
}
