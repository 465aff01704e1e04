import CLinux
import Glibc
import MeshIdentity
package import Platform

/// What was enrolled, issued and revoked: one SQLite file of the operator's, safe with several operators at once.
///
/// A value without state: each call opens the file, does its work in one transaction and closes it again. Calls block
/// for milliseconds, while another process writes for at most some seconds.
package struct Ledger: Sendable {
    package let path: String
    /// Who writes, for the events: `user@host`.
    package var operatorName: String
    /// Seconds since 1970.
    package var clock = WallClock.system

    /// The file is made with the first use, as is its directory.
    package init(_ path: String) {
        self.path = path
        operatorName = Self.currentOperator
    }

    private static var currentOperator: String {
        var host = [CChar](repeating: 0, count: 256)
        gethostname(&host, host.count - 1)
        let name = String(decoding: host.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
        let user = Account.current?.name ?? "\(getuid())"
        return "\(user)@\(name)"
    }

    /// Runs `body` with a connection to a file that has the present tables.
    func read<Result>(
        _ body: (borrowing SQLiteDatabase) throws(LedgerError) -> Result
    ) throws(LedgerError) -> Result {
        let database = try open()
        return try body(database)
    }

    /// The same, all as it was at one moment.
    func snapshot<Result>(
        _ body: (borrowing SQLiteDatabase) throws(LedgerError) -> Result
    ) throws(LedgerError) -> Result {
        let database = try open()
        return try database.transaction(writes: false) { () throws(LedgerError) in try body(database) }
    }

    /// The same in one transaction, which no other writer interrupts.
    func write<Result>(
        _ body: (borrowing SQLiteDatabase) throws(LedgerError) -> Result
    ) throws(LedgerError) -> Result {
        let database = try open()
        return try database.transaction { () throws(LedgerError) in try body(database) }
    }

    /// Writes, whole: that a file can be opened, or a transaction begun, says nothing of a disk that is full.
    func checkWritable() throws(LedgerError) {
        try write { (database) throws(LedgerError) in try setValue("last trial", "\(clock.seconds)", in: database) }
    }

    private func open() throws(LedgerError) -> SQLiteDatabase {
        do throws(FileError) {
            try AtomicFile.createDirectory(AtomicFile.split(path).directory, mode: 0o700)
        } catch {
            throw LedgerError(.file, error.message)
        }
        var status = stat()
        if stat(path, &status) != 0, errno == ENOENT {
            try create()
        } else if status.st_mode & S_IFMT == S_IFREG, status.st_size == 0 {
            throw LedgerError(.damaged, Self.emptiness(path))
        }
        let database = try SQLiteDatabase(path: path)
        try LedgerSchema.prepare(database, path: path)
        return database
    }

    /// It appears with its tables, or not at all: one that is empty has lost what was in it.
    private func create() throws(LedgerError) {
        let database = try SQLiteDatabase(path: ":memory:")
        try LedgerSchema.prepare(database, path: path)
        let image = try database.image()
        do throws(FileError) {
            do throws(FileError) {
                try AtomicFile.write(image, to: path, mode: 0o600, overwrite: false)
            } catch {
                guard error.code != .alreadyExists else { return }
                // A file system without hard links. Another command may be faster here, too.
                try AtomicFile.create(image, at: path, mode: 0o600)
            }
        } catch {
            guard access(path, F_OK) != 0 else { return }
            throw LedgerError(.file, "the ledger \(path) cannot be made: \(error.message)")
        }
    }

    private static func emptiness(_ path: String) -> String {
        "the ledger \(path) is empty (0 bytes): what was enrolled, issued and revoked is not in it any more. Put a copy of it back. Without one "
            + "(or where nothing was enrolled yet): rm \(path), then `bootstrap revoke`, which takes over what the CA's list says, and enroll the "
            + "devices again: nothing on them is lost"
    }
}

/// One entry of what happened, for people.
package struct LedgerEvent: Hashable, Sendable {
    /// Seconds since 1970.
    package var at: Int64
    /// `user@host` of who did it.
    package var operatorName: String
    /// The command: `enroll`, `renew`, `revoke`, `ca issue`.
    package var command: String
    package var device: String?
    package var identity: String?
    package var serial: String?
    package var what: String
}

extension Ledger {
    /// The latest events first. A certificate that was issued and then renewed a device is told once.
    ///
    /// - Parameter device: nil is everything.
    /// - Parameter limit: At most so many.
    package func events(of device: String? = nil, limit: Int = 100) throws(LedgerError) -> [LedgerEvent] {
        try read { (database) throws(LedgerError) in
            try database.rows(
                """
                SELECT at, operator, command, device, identity, serial, what FROM events
                WHERE (?1 IS NULL OR device = ?1) AND NOT (what LIKE 'issued until %' AND EXISTS (
                    SELECT 1 FROM events AS later WHERE later.device = events.device AND later.id > events.id
                    AND later.serial = events.serial AND later.what LIKE 'renewed %'
                ))
                ORDER BY id DESC LIMIT ?2
                """,
                [SQLiteValue(device), .integer(Int64(limit))]
            ) { row in
                LedgerEvent(
                    at: row.integer(0),
                    operatorName: row.text(1),
                    command: row.text(2),
                    device: row.textIfAny(3),
                    identity: row.textIfAny(4),
                    serial: row.textIfAny(5),
                    what: row.text(6)
                )
            }
        }
    }

    func note(
        _ what: String,
        by command: String,
        device: String? = nil,
        identity: String? = nil,
        serial: String? = nil,
        in database: borrowing SQLiteDatabase
    ) throws(LedgerError) {
        try database.execute(
            "INSERT INTO events (at, operator, command, device, identity, serial, what) VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                .integer(clock.seconds), .text(operatorName), .text(command), SQLiteValue(device),
                SQLiteValue(identity),
                SQLiteValue(serial), .text(what),
            ]
        )
    }

    /// A value that is kept under a name.
    func value(_ key: String, in database: borrowing SQLiteDatabase) throws(LedgerError) -> String? {
        try database.rows("SELECT value FROM notes WHERE key = ?", [.text(key)]) { $0.text(0) }.first
    }

    func setValue(_ key: String, _ value: String, in database: borrowing SQLiteDatabase) throws(LedgerError) {
        try database.execute("INSERT OR REPLACE INTO notes (key, value) VALUES (?, ?)", [.text(key), .text(value)])
    }
}
