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
        self.record = record
    }
}

extension Ledger {
    private static let deviceColumns = """
        name, identity, destination, host_key_algorithm, host_key, key_origin, agent, serial, not_after, enrolled_at, \
        renewed_at, revoked_at, revocation_reason, record
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

    private func devices(where condition: String, _ values: [SQLiteValue]) throws(LedgerError) -> [LedgerDevice] {
        try read { (database) throws(LedgerError) in try devices(where: condition, values, in: database) }
    }

    func devices(
        where condition: String,
        _ values: [SQLiteValue],
        in database: borrowing SQLiteDatabase
    ) throws(LedgerError) -> [LedgerDevice] {
        try database.rows(
            "SELECT \(Self.deviceColumns) FROM devices WHERE \(condition) ORDER BY name",
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
                record: row.text(13)
            )
        }
    }

    /// Adds a device or replaces what is known of it. Its earlier certificates count as superseded.
    ///
    /// - Parameter device: Whose it is, by name.
    /// - Parameter command: Which command did it.
    /// - Parameter what: What was done, for the ledger's events.
    /// - Parameter reason: Revokes the earlier certificates instead, for this reason.
    package func save(
        _ device: LedgerDevice,
        by command: String,
        _ what: String,
        revokingEarlier reason: String? = nil
    ) throws(LedgerError) {
        try write { (database) throws(LedgerError) in
            try put(device, in: database)
            if let reason {
                try revoke(
                    where: "device = ? AND serial <> ?",
                    [.text(device.name), .text(device.serial ?? "")],
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
        }
    }

    /// Changes what is known of a device, in one transaction: `change` is given what the ledger has at that moment, not what was read before, so
    /// that nothing that others have written meanwhile (a revocation) is lost. Where it brings another certificate, the earlier ones count as
    /// superseded.
    ///
    /// - Parameters:
    ///   - name: Whose it is.
    ///   - command: Which command does it.
    ///   - what: What was done, for the ledger's events.
    ///   - change: Throws to leave everything as it is.
    /// - Returns: The device as it is now.
    package func updateDevice(
        named name: String,
        by command: String,
        _ what: String,
        _ change: (inout LedgerDevice) throws(LedgerError) -> Void
    ) throws(LedgerError) -> LedgerDevice {
        try write { (database) throws(LedgerError) in
            guard var device = try devices(where: "name = ?", [.text(name)], in: database).first else {
                throw LedgerError(.invalid, "there is no device '\(name)' in the ledger any more")
            }
            let before = device.serial
            try change(&device)
            try put(device, in: database)
            if let serial = device.serial, serial != before {
                try supersede(certificatesOf: name, except: serial, in: database)
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

    /// Forgets a device; nothing happens when there is none of this name. Its certificates stay known.
    package func removeDevice(named name: String, by command: String) throws(LedgerError) {
        try write { (database) throws(LedgerError) in
            guard try database.execute("DELETE FROM devices WHERE name = ?", [.text(name)]) > 0 else { return }
            try note("removed", by: command, device: name, in: database)
        }
    }

    /// Takes over devices that were recorded elsewhere, once: later calls with this `source` do nothing, and neither does a device that
    /// the ledger has already.
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
                try put(device, in: database)
                try note("imported from \(source)", by: "import", device: device.name, in: database)
            }
            try setValue(key, "\(clock.seconds)", in: database)
        }
    }

    func put(_ device: LedgerDevice, in database: borrowing SQLiteDatabase) throws(LedgerError) {
        try database.execute(
            "INSERT OR REPLACE INTO devices (\(Self.deviceColumns)) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                .text(device.name), .text(device.identity), .text(device.destination),
                .text(device.hostKeyAlgorithm), .text(device.hostKey), .text(device.keyOrigin),
                SQLiteValue(device.agent), SQLiteValue(device.serial), .integer(device.notAfter),
                .integer(device.enrolledAt), SQLiteValue(device.renewedAt), SQLiteValue(device.revokedAt),
                SQLiteValue(device.revocationReason), .text(device.record),
            ]
        )
    }
}
