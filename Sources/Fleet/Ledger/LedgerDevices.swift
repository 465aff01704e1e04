import Platform

/// A device as the ledger knows it. No secret is in it.
package struct LedgerDevice: Hashable, Sendable {
    /// Unique in the ledger.
    package var name: String
    /// Its SPIFFE ID.
    package var identity: String
    /// As it was given to `enroll`.
    package var destination: String
    /// The type of its SSH host key: `ssh-ed25519`.
    package var hostKeyAlgorithm: String
    /// `SHA256:…`.
    package var hostKey: String
    /// Where its private key was made: `device`, `openssl` (on the device, by its own OpenSSL) or `pushed`.
    package var keyOrigin: String
    /// The release it runs; nil without an agent.
    package var agent: String?
    /// Of its certificate; nil when it was enrolled before there was a ledger.
    package var serial: String?
    /// When its certificate ends, in seconds since 1970.
    package var notAfter: Int64
    /// Seconds since 1970.
    package var enrolledAt: Int64
    /// Seconds since 1970; nil when it was not renewed since it was enrolled.
    package var renewedAt: Int64?
    /// Seconds since 1970; nil when it is not revoked.
    package var revokedAt: Int64?
    package var revocationReason: String?
    /// When its present certificate was revoked, in seconds since 1970; nil when it is not. Read with the device: the
    /// table of certificates has it.
    package var certificateRevokedAt: Int64?
    /// All the rest, in JSON: how to log in, where it is reached, what it runs.
    package var record: String

    package init(
        name: String,
        identity: String,
        destination: String,
        hostKeyAlgorithm: String,
        hostKey: String,
        keyOrigin: String,
        agent: String?,
        serial: String?,
        notAfter: Int64,
        enrolledAt: Int64,
        renewedAt: Int64? = nil,
        revokedAt: Int64? = nil,
        revocationReason: String? = nil,
        certificateRevokedAt: Int64? = nil,
        record: String
    ) {
        self.name = name
        self.identity = identity
        self.destination = destination
        self.hostKeyAlgorithm = hostKeyAlgorithm
        self.hostKey = hostKey
        self.keyOrigin = keyOrigin
        self.agent = agent
        self.serial = serial
        self.notAfter = notAfter
        self.enrolledAt = enrolledAt
        self.renewedAt = renewedAt
        self.revokedAt = revokedAt
        self.revocationReason = revocationReason
        self.certificateRevokedAt = certificateRevokedAt
        self.record = record
    }
}

extension Ledger {
    private static let deviceColumns = """
        name, identity, destination, host_key_algorithm, host_key, key_origin, agent, serial, not_after, enrolled_at, \
        renewed_at, revoked_at, revocation_reason, record
        """
    private static let certificateRevocation = """
        (SELECT max(coalesce(changed_at, 0)) FROM certificates WHERE certificates.serial = devices.serial
        AND state = 'revoked' AND (device = devices.name OR device IS NULL))
        """

    /// Every device, ordered by name.
    package func devices() throws(LedgerError) -> [LedgerDevice] { try devices(where: "1", []) }

    /// nil when there is none of this name.
    package func device(named name: String) throws(LedgerError) -> LedgerDevice? {
        try devices(where: "name = ?", [.text(name)]).first
    }

    /// Those that were enrolled with this destination, or have this SPIFFE ID.
    package func devices(matching text: String) throws(LedgerError) -> [LedgerDevice] {
        try devices(where: "destination = ?1 OR identity = ?1", [.text(text)])
    }

    /// Those that have shown this SSH host key, of whatever algorithm.
    package func devices(withHostKey fingerprint: String) throws(LedgerError) -> [LedgerDevice] {
        try devices(
            where: "host_key = ?1 OR name IN (SELECT device FROM host_keys WHERE fingerprint = ?1)",
            [.text(fingerprint)]
        )
    }

    private func devices(where condition: String, _ values: [SQLiteValue]) throws(LedgerError) -> [LedgerDevice] {
        try read { (database) throws(LedgerError) in try devices(where: condition, values, in: database) }
    }

    func devices(
        where condition: String,
        _ values: [SQLiteValue],
        in database: borrowing SQLiteDatabase
    ) throws(LedgerError) -> [LedgerDevice] {
        try database.rows(
            "SELECT \(Self.deviceColumns), \(Self.certificateRevocation) FROM devices WHERE \(condition) ORDER BY name",
            values
        ) { row in
            LedgerDevice(
                name: row.text(0),
                identity: row.text(1),
                destination: row.text(2),
                hostKeyAlgorithm: row.text(3),
                hostKey: row.text(4),
                keyOrigin: row.text(5),
                agent: row.textIfAny(6),
                serial: row.textIfAny(7),
                notAfter: row.integer(8),
                enrolledAt: row.integer(9),
                renewedAt: row.integerIfAny(10),
                revokedAt: row.integerIfAny(11),
                revocationReason: row.textIfAny(12),
                certificateRevokedAt: row.integerIfAny(14),
                record: row.text(13)
            )
        }
    }

    /// Adds a device, or takes over what an enrolment has found out about it. Its earlier certificates count as
    /// superseded.
    ///
    /// - Parameters:
    ///   - device: Whose it is, by name.
    ///   - claim: What the enrolment stands on; nothing is written where it does not hold any more. nil: whatever is
    ///     there is written over, but for a revocation.
    ///   - command: Which command did it.
    ///   - what: What was done, for the ledger's events.
    ///   - reason: Why the earlier certificates are to be revoked instead; nil where they are not. Asked once, in the
    ///     transaction, with whether an alarm stands by now, which is settled with this.
    ///   - merge: Is given what the ledger has at that moment, to keep of it what the enrolment does not know.
    /// - Returns: The device as it is now.
    @discardableResult
    package func save(
        _ device: LedgerDevice,
        on claim: DeviceClaim? = nil,
        by command: String,
        _ what: String,
        revokingEarlier reason: (_ isAlarmed: Bool) -> String? = { _ in nil },
        merging merge: (LedgerDevice, inout LedgerDevice) throws(LedgerError) -> Void = { _, _ in }
    ) throws(LedgerError) -> LedgerDevice {
        try write { (database) throws(LedgerError) in
            if let claim { try check(claim, in: database) }
            var device = device
            let isAlarmed = try alarms(of: device.name, in: database).contains { $0.kind != .refused }
            if let present = try devices(where: "name = ?", [.text(device.name)], in: database).first {
                try merge(present, &device)
                if claim?.reinstates != true {
                    (device.revokedAt, device.revocationReason) = (present.revokedAt, present.revocationReason)
                }
                try change(present, into: device, in: database)
            } else {
                try insert(device, in: database)
            }
            if let serial = device.serial { try setLastIssued(serial, of: device.name, in: database) }
            if let machine = claim?.machine {
                try setOtherHostKeys(machine.otherKeys, of: device.name, in: database)
                if claim?.reinstates == true { try forgetRevocations(of: machine.known, in: database) }
            }
            try settleAlarms(of: device.name, in: database)
            if let reason = reason(isAlarmed) {
                try revoke(
                    certificatesOf: device.name,
                    except: device.serial ?? "",
                    reason: reason,
                    by: command,
                    in: database
                )
            } else if let serial = device.serial {
                try supersede(certificatesOf: device.name, except: serial, in: database)
            }
            try note(
                what,
                by: command,
                device: device.name,
                identity: device.identity,
                serial: device.serial,
                in: database
            )
            return device
        }
    }

    /// Changes what is known of a device, in one transaction: `change` is given what the ledger has at that moment, not
    /// what was read before, and only the columns that it changes are written, so that nothing that others have written
    /// meanwhile (a revocation) is lost. Where it brings another certificate, the earlier ones count as superseded.
    ///
    /// - Parameters:
    ///   - name: Whose it is.
    ///   - claim: What the change stands on; nothing is written where it does not hold any more.
    ///   - command: Which command does it.
    ///   - what: What was done, for the ledger's events.
    ///   - reason: Why the earlier ones are to be revoked instead, which settles alarms; nil where they are not. Asked
    ///     once, in the transaction, with whether an alarm stands by now.
    ///   - change: Throws to leave everything as it is.
    /// - Returns: The device as it is now.
    package func updateDevice(
        named name: String,
        on claim: DeviceClaim? = nil,
        by command: String,
        _ what: String,
        revokingEarlier reason: (_ isAlarmed: Bool) -> String? = { _ in nil },
        _ change: (inout LedgerDevice) throws(LedgerError) -> Void
    ) throws(LedgerError) -> LedgerDevice {
        try write { (database) throws(LedgerError) in
            if let claim { try check(claim, in: database) }
            guard let before = try devices(where: "name = ?", [.text(name)], in: database).first else {
                throw LedgerError(.invalid, "there is no device '\(name)' in the ledger any more")
            }
            var device = before
            try change(&device)
            try self.change(before, into: device, in: database)
            if let serial = device.serial, serial != before.serial {
                try setLastIssued(serial, of: name, in: database)
                if let reason = reason(try alarms(of: name, in: database).contains { $0.kind != .refused }) {
                    try settleAlarms(of: name, in: database)
                    try revoke(certificatesOf: name, except: serial, reason: reason, by: command, in: database)
                } else {
                    try supersede(certificatesOf: name, except: serial, in: database)
                }
                try settleRefusals(of: name, in: database)
            }
            try note(
                what,
                by: command,
                device: name,
                identity: device.identity,
                serial: device.serial,
                in: database
            )
            return device
        }
    }

    /// Forgets a device; nothing happens when there is none of this name. Its certificates stay known, and so does its
    /// revocation, until it is enrolled to be trusted again.
    ///
    /// - Parameters:
    ///   - name: Whose it is.
    ///   - seen: What was known of it when the removal began: a machine that was enrolled under the name since then
    ///     stays.
    ///   - command: Which command does it.
    /// - Returns: Whether it was revoked.
    @discardableResult
    package func removeDevice(
        named name: String,
        ifStill seen: LedgerDevice? = nil,
        by command: String
    ) throws(LedgerError) -> Bool {
        try write { (database) throws(LedgerError) in
            let present = try devices(where: "name = ?", [.text(name)], in: database).first
            if let seen, let present,
                present.enrolledAt != seen.enrolledAt || present.hostKey != seen.hostKey
            {
                throw LedgerError(
                    .conflict,
                    "'\(name)' was enrolled again meanwhile, for \(present.destination): that record stays; unenroll it once more if it is to go"
                )
            }
            guard let present else { return false }
            try database.execute("DELETE FROM last_issued WHERE device = ?", [.text(name)])
            try keepRevocation(of: present, in: database)
            try database.execute("DELETE FROM devices WHERE name = ?", [.text(name)])
            try settleAlarms(of: name, in: database)
            try note("removed", by: command, device: name, in: database)
            return present.revokedAt != nil
        }
    }

    /// Ends an enrolment that has got a certificate, and whose device is not recorded: it is under way, or was cut.
    ///
    /// - Returns: Whether there was any.
    package func endEnrolment(named name: String, by command: String) throws(LedgerError) -> Bool {
        try write { (database) throws(LedgerError) in
            guard try devices(where: "name = ?", [.text(name)], in: database).isEmpty,
                try database.execute("DELETE FROM last_issued WHERE device = ?", [.text(name)]) > 0
            else { return false }
            try note("its enrolment was ended", by: command, device: name, in: database)
            return true
        }
    }

    /// Takes over devices that were recorded elsewhere, once: later calls with this `source` do nothing, and neither
    /// does a device that the ledger has already.
    ///
    /// - Parameter source: Where they come from, for the ledger's notes.
    /// - Parameter devices: Called at most once, before anything is written.
    package func importOnce(
        from source: String,
        _ devices: () throws(LedgerError) -> [LedgerDevice]
    ) throws(LedgerError) {
        let key = "imported \(source)"
        guard try read({ (database) throws(LedgerError) in try value(key, in: database) }) == nil else { return }
        let found = try devices()
        try write { (database) throws(LedgerError) in
            guard try value(key, in: database) == nil else { return }
            for device in found
            where try self.devices(where: "name = ?", [.text(device.name)], in: database).isEmpty {
                try insert(device, in: database)
                if let serial = device.serial { try setLastIssued(serial, of: device.name, in: database) }
                try note("imported from \(source)", by: "import", device: device.name, in: database)
            }
            try setValue(key, "\(clock.seconds)", in: database)
        }
    }

    /// A device that the ledger does not have.
    private func insert(_ device: LedgerDevice, in database: borrowing SQLiteDatabase) throws(LedgerError) {
        let marks = Array(repeating: "?", count: device.columns.count).joined(separator: ", ")
        try database.execute(
            "INSERT INTO devices (\(Self.deviceColumns)) VALUES (\(marks))",
            device.columns.map(\.value)
        )
    }

    /// Writes the columns that differ, and no other.
    private func change(
        _ before: LedgerDevice,
        into after: LedgerDevice,
        in database: borrowing SQLiteDatabase
    ) throws(LedgerError) {
        let changed = zip(before.columns, after.columns).filter { $0.value != $1.value }.map(\.1)
        guard !changed.isEmpty else { return }
        try database.execute(
            "UPDATE devices SET \(changed.map { "\($0.name) = ?" }.joined(separator: ", ")) WHERE name = ?",
            changed.map(\.value) + [.text(before.name)]
        )
    }
}

extension LedgerDevice {
    /// In the order of the table.
    fileprivate var columns: [(name: String, value: SQLiteValue)] {
        [
            ("name", .text(name)), ("identity", .text(identity)), ("destination", .text(destination)),
            ("host_key_algorithm", .text(hostKeyAlgorithm)), ("host_key", .text(hostKey)),
            ("key_origin", .text(keyOrigin)), ("agent", SQLiteValue(agent)), ("serial", SQLiteValue(serial)),
            ("not_after", .integer(notAfter)), ("enrolled_at", .integer(enrolledAt)),
            ("renewed_at", SQLiteValue(renewedAt)), ("revoked_at", SQLiteValue(revokedAt)),
            ("revocation_reason", SQLiteValue(revocationReason)), ("record", .text(record)),
        ]
    }
}
