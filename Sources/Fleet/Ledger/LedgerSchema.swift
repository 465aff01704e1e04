/// The tables, and how an older file becomes a present one.
enum LedgerSchema {
    /// "BSTL" in the file's header says that it is ours (PRAGMA application_id).
    static let applicationID: Int64 = 0x4253_544C

    /// Step n takes a file from version n to n + 1 (PRAGMA user_version). A step that was released is never changed.
    static let steps: [[String]] = [
        [
            """
            CREATE TABLE devices (
                name               TEXT PRIMARY KEY,
                identity           TEXT NOT NULL,
                destination        TEXT NOT NULL,
                host_key_algorithm TEXT NOT NULL,
                host_key           TEXT NOT NULL,
                key_origin         TEXT NOT NULL,
                agent              TEXT,
                serial             TEXT,
                not_after          INTEGER NOT NULL,
                enrolled_at        INTEGER NOT NULL,
                renewed_at         INTEGER,
                revoked_at         INTEGER,
                revocation_reason  TEXT,
                record             TEXT NOT NULL
            )
            """,
            "CREATE INDEX devices_destination ON devices (destination)",
            "CREATE INDEX devices_identity ON devices (identity)",
            """
            CREATE TABLE certificates (
                issuer      TEXT NOT NULL,
                serial      TEXT NOT NULL,
                identity    TEXT NOT NULL,
                device      TEXT,
                not_before  INTEGER NOT NULL,
                not_after   INTEGER NOT NULL,
                issued_at   INTEGER NOT NULL,
                command     TEXT NOT NULL,
                state       TEXT NOT NULL CHECK (state IN ('issued', 'superseded', 'revoked')),
                changed_at  INTEGER,
                reason      TEXT,
                PRIMARY KEY (issuer, serial)
            )
            """,
            "CREATE INDEX certificates_serial ON certificates (serial)",
            "CREATE INDEX certificates_device ON certificates (device)",
            "CREATE INDEX certificates_identity ON certificates (identity)",
            """
            CREATE TABLE events (
                id       INTEGER PRIMARY KEY AUTOINCREMENT,
                at       INTEGER NOT NULL,
                operator TEXT NOT NULL,
                command  TEXT NOT NULL,
                device   TEXT,
                identity TEXT,
                serial   TEXT,
                what     TEXT NOT NULL
            )
            """,
            "CREATE INDEX events_device ON events (device)",
            "CREATE TABLE notes (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
        ],
        [
            // The certificate that was issued last under a name, whether or not it has arrived, and whether or not
            // there is a device yet.
            "CREATE TABLE last_issued (device TEXT PRIMARY KEY, serial TEXT NOT NULL)",
            """
            INSERT INTO last_issued (device, serial)
            SELECT device, serial FROM certificates AS latest WHERE device IS NOT NULL AND rowid = (
                SELECT max(rowid) FROM certificates WHERE certificates.device = latest.device
            )
            """,
            "INSERT OR IGNORE INTO last_issued (device, serial) SELECT name, serial FROM devices WHERE serial IS NOT NULL",
            """
            CREATE TABLE alarms (
                device   TEXT NOT NULL,
                issuer   TEXT NOT NULL,
                serial   TEXT NOT NULL,
                kind     TEXT NOT NULL CHECK (kind IN ('forked', 'unknown')),
                first_at INTEGER NOT NULL,
                last_at  INTEGER NOT NULL,
                count    INTEGER NOT NULL,
                PRIMARY KEY (device, issuer, serial)
            )
            """,
        ],
        [
            // The host key of the machine that it was issued to, until its device is recorded.
            "ALTER TABLE last_issued ADD COLUMN host_key_algorithm TEXT",
            "ALTER TABLE last_issued ADD COLUMN host_key TEXT",
            // The device has said that it did not take it.
            "ALTER TABLE certificates ADD COLUMN refused_at INTEGER",
            "CREATE INDEX devices_host_key ON devices (host_key)",
            // What is kept of devices that were revoked, and unenrolled since.
            """
            CREATE TABLE removed_machines (
                id                 INTEGER PRIMARY KEY AUTOINCREMENT,
                name               TEXT NOT NULL,
                identity           TEXT NOT NULL,
                destination        TEXT NOT NULL,
                host_key_algorithm TEXT NOT NULL,
                host_key           TEXT NOT NULL,
                revoked_at         INTEGER NOT NULL,
                revocation_reason  TEXT,
                removed_at         INTEGER NOT NULL
            )
            """,
            "CREATE INDEX removed_machines_host_key ON removed_machines (host_key)",
            // Those that a machine has beside the one that it has shown: of a device, or of a removed machine.
            "CREATE TABLE host_keys (fingerprint TEXT NOT NULL, algorithm TEXT NOT NULL, device TEXT, removed INTEGER)",
            "CREATE INDEX host_keys_fingerprint ON host_keys (fingerprint)",
            "CREATE INDEX host_keys_device ON host_keys (device)",
            "ALTER TABLE alarms RENAME TO earlier_alarms",
            """
            CREATE TABLE alarms (
                device   TEXT NOT NULL,
                issuer   TEXT NOT NULL,
                serial   TEXT NOT NULL,
                kind     TEXT NOT NULL CHECK (kind IN ('forked', 'unknown', 'refused')),
                first_at INTEGER NOT NULL,
                last_at  INTEGER NOT NULL,
                count    INTEGER NOT NULL,
                detail   TEXT,
                PRIMARY KEY (device, issuer, serial, kind)
            )
            """,
            """
            INSERT INTO alarms (device, issuer, serial, kind, first_at, last_at, count)
            SELECT device, issuer, serial, kind, first_at, last_at, count FROM earlier_alarms
            """,
            "DROP TABLE earlier_alarms",
        ],
    ]

    static var version: Int64 { Int64(steps.count) }

    /// Makes sure that the file has the present tables.
    static func prepare(_ database: borrowing SQLiteDatabase, path: String) throws(LedgerError) {
        // Version and owner are written together, the version is read first: present ones stay so. Anything else is
        // judged where no other process can be about to write them.
        if try number(database, "user_version") == version, try number(database, "application_id") == applicationID {
            return
        }
        try database.transaction { () throws(LedgerError) in
            if try isCurrent(database, path: path) { return }
            let found = try number(database, "user_version")
            for statements in steps[Int(found)...] {
                for statement in statements { try database.execute(statement) }
            }
            try database.execute("PRAGMA application_id = \(applicationID)")
            try database.execute("PRAGMA user_version = \(version)")
        }
    }

    private static func isCurrent(_ database: borrowing SQLiteDatabase, path: String) throws(LedgerError) -> Bool {
        let found = try number(database, "user_version")
        let owner = try number(database, "application_id")
        if found == 0, owner == 0 {
            let tables = try database.rows("SELECT count(*) FROM sqlite_schema") { $0.integer(0) }
            guard tables.first == 0 else { throw foreign(path) }
            return false
        }
        guard owner == applicationID, found > 0 else { throw foreign(path) }
        guard found <= version else {
            throw LedgerError(
                .newer,
                "the ledger \(path) was written by a later release of bootstrap (format \(found); this one knows up to "
                    + "\(version)); use that release"
            )
        }
        return found == version
    }

    private static func foreign(_ path: String) -> LedgerError {
        LedgerError(.damaged, "\(path) is a SQLite file, but no ledger of bootstrap; move it away")
    }

    private static func number(_ database: borrowing SQLiteDatabase, _ pragma: String) throws(LedgerError) -> Int64 {
        try database.rows("PRAGMA \(pragma)") { $0.integer(0) }.first ?? 0
    }
}
