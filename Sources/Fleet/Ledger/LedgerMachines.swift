import Platform

/// Which machines have which host keys. One machine has one name, and a machine that was revoked stays so under every
/// name, and after its record is gone.
extension Ledger {
    /// Who is known by the keys of a machine, or by the identity that it has, under whatever name.
    ///
    /// - Parameter name: What it is to be called: the device of this name is left out.
    package func machines(
        like machine: MetMachine,
        besides name: String
    ) throws(LedgerError) -> Set<KnownMachine> {
        try snapshot { (database) throws(LedgerError) in try machines(like: machine, besides: name, in: database) }
    }

    func machines(
        like machine: MetMachine,
        besides name: String,
        in database: borrowing SQLiteDatabase
    ) throws(LedgerError) -> Set<KnownMachine> {
        let fingerprints = machine.fingerprints
        let marks = fingerprints.indices.map { "?\($0 + 5)" }.joined(separator: ", ")
        let values: [SQLiteValue] =
            [.text(name), .integer(clock.seconds), SQLiteValue(machine.identity), SQLiteValue(machine.serial)]
            + fingerprints.map { .text($0) }
        // An identity may have gone to another machine since the revocation: what that was given is not revoked.
        let hasRevokedIdentity = """
            identity = ?3 AND revoked_at IS NOT NULL AND NOT EXISTS (
                SELECT 1 FROM certificates WHERE certificates.serial = ?4 AND certificates.identity = ?3
                AND state <> 'revoked' AND issued_at >= revoked_at
            )
            """
        // Where a device that is trusted has proven a key, the word of others that they have it counts for nothing,
        // whether the machine has proven it, too, or says so.
        let hasKeyByWord = """
            FROM host_keys WHERE fingerprint IN (\(marks)) AND NOT EXISTS (
                SELECT 1 FROM devices AS proven WHERE proven.host_key = host_keys.fingerprint AND proven.revoked_at IS NULL
                AND (host_keys.device IS NULL OR proven.name <> host_keys.device)
            )
            """
        var found: Set<KnownMachine> = []
        found.formUnion(
            try database.rows(
                """
                SELECT name, identity, destination, host_key_algorithm, host_key, revoked_at, revocation_reason FROM devices
                WHERE name <> ?1 AND (
                    host_key IN (\(marks)) OR name IN (SELECT device \(hasKeyByWord))
                    OR (\(hasRevokedIdentity))
                )
                """,
                values
            ) { Self.machine($0, .enrolled) }
        )
        found.formUnion(
            try database.rows(
                """
                SELECT name, identity, destination, host_key_algorithm, host_key, revoked_at, revocation_reason, id
                FROM removed_machines WHERE host_key IN (\(marks))
                OR id IN (SELECT removed \(hasKeyByWord)) OR (\(hasRevokedIdentity))
                """,
                values
            ) { Self.machine($0, .removed(number: $0.integer(7))) }
        )
        found.formUnion(
            try database.rows(
                """
                SELECT last_issued.device, certificates.identity, NULL, host_key_algorithm, host_key, NULL, NULL
                FROM last_issued JOIN certificates
                ON certificates.serial = last_issued.serial AND certificates.device = last_issued.device
                WHERE host_key IN (\(marks)) AND last_issued.device <> ?1 AND state <> 'revoked' AND not_after > ?2
                """,
                values
            ) { Self.machine($0, .enrolling) }
        )
        return found
    }

    private static func machine(_ row: borrowing SQLiteRow, _ standing: KnownMachine.Standing) -> KnownMachine {
        KnownMachine(
            name: row.text(0),
            identity: row.text(1),
            destination: row.textIfAny(2),
            hostKey: MachineKey(algorithm: row.text(3), fingerprint: row.text(4)),
            standing: standing,
            revokedAt: row.integerIfAny(5),
            revocationReason: row.textIfAny(6)
        )
    }

    /// The keys that a device has beside the one that it has shown, by its own word: not one that another device has
    /// proven.
    func setOtherHostKeys(
        _ keys: [MachineKey],
        of name: String,
        in database: borrowing SQLiteDatabase
    ) throws(LedgerError) {
        try database.execute("DELETE FROM host_keys WHERE device = ?", [.text(name)])
        for key in keys {
            try database.execute(
                """
                INSERT INTO host_keys (fingerprint, algorithm, device) SELECT ?1, ?2, ?3
                WHERE NOT EXISTS (SELECT 1 FROM devices WHERE host_key = ?1 AND name <> ?3)
                """,
                [.text(key.fingerprint), .text(key.algorithm), .text(name)]
            )
        }
    }

    /// The device is about to be forgotten. That it was revoked is not.
    func keepRevocation(of device: LedgerDevice, in database: borrowing SQLiteDatabase) throws(LedgerError) {
        guard let revokedAt = device.revokedAt else {
            try database.execute("DELETE FROM host_keys WHERE device = ?", [.text(device.name)])
            return
        }
        try database.execute(
            """
            INSERT INTO removed_machines
            (name, identity, destination, host_key_algorithm, host_key, revoked_at, revocation_reason, removed_at)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?)
            """,
            [
                .text(device.name), .text(device.identity), .text(device.destination),
                .text(device.hostKeyAlgorithm), .text(device.hostKey), .integer(revokedAt),
                SQLiteValue(device.revocationReason), .integer(clock.seconds),
            ]
        )
        try database.execute(
            "UPDATE host_keys SET device = NULL, removed = last_insert_rowid() WHERE device = ?",
            [.text(device.name)]
        )
    }

    /// The user trusts the machine again.
    func forgetRevocations(
        of machines: Set<KnownMachine>,
        in database: borrowing SQLiteDatabase
    ) throws(LedgerError) {
        for case .removed(let number) in machines.map(\.standing) {
            try database.execute("DELETE FROM host_keys WHERE removed = ?", [.integer(number)])
            try database.execute("DELETE FROM removed_machines WHERE id = ?", [.integer(number)])
        }
    }
}
