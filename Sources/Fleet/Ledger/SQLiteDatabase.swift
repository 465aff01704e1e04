import CSQLite
import Glibc

/// What a statement is given for a `?`.
enum SQLiteValue: Hashable, Sendable {
    case integer(Int64)
    case text(String)
    case null

    init(_ value: Int64?) { self = value.map { .integer($0) } ?? .null }
    init(_ value: String?) { self = value.map { .text($0) } ?? .null }
}

/// One connection to a SQLite file, closed with this value.
///
/// Not shared: each operation opens its own, which takes a fraction of a millisecond, and SQLite's file locks order
/// those of one process like those of several.
struct SQLiteDatabase: ~Copyable {
    private let pointer: OpaquePointer
    private let path: String

    /// How long to wait for another writer. Each of ours writes for milliseconds.
    static let patience: Int32 = 15_000

    /// Opens a file that is there. It is opened by SQLite alone: to close another descriptor of it would take the locks
    /// of this process's other connections away (fcntl(2)), in the middle of their transactions.
    ///
    /// - Parameter path: `:memory:` is a database without a file.
    init(path: String) throws(LedgerError) {
        self.path = path
        var opened: OpaquePointer?
        let flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX
        let result = sqlite3_open_v2(path, &opened, flags, nil)
        guard result == SQLITE_OK, let opened else {
            sqlite3_close_v2(opened)
            throw LedgerError(.file, "the ledger \(path) cannot be opened: \(String(cString: sqlite3_errstr(result)))")
        }
        // SQLite's own rollback journal is there only while somebody writes: one file. WAL would need shared memory,
        // which a home directory on a network does not have, for readers that this ledger does not have.
        sqlite3_busy_timeout(opened, Self.patience)
        pointer = opened
    }

    deinit { sqlite3_close_v2(pointer) }

    /// As a file has it.
    borrowing func image() throws(LedgerError) -> [UInt8] {
        var size: sqlite3_int64 = 0
        guard let start = sqlite3_serialize(pointer, "main", &size, 0) else {
            throw LedgerError(.file, "there is no memory for the ledger \(path)")
        }
        defer { sqlite3_free(start) }
        return Array(UnsafeBufferPointer(start: start, count: Int(size)))
    }

    /// Runs one statement. Returns how many rows it changed.
    @discardableResult
    borrowing func execute(_ sql: String, _ values: [SQLiteValue] = []) throws(LedgerError) -> Int {
        _ = try rows(sql, values) { _ in }
        return Int(sqlite3_changes(pointer))
    }

    /// Runs one query, and reads every row.
    borrowing func rows<Row>(
        _ sql: String,
        _ values: [SQLiteValue] = [],
        _ read: (borrowing SQLiteRow) throws(LedgerError) -> Row
    ) throws(LedgerError) -> [Row] {
        var prepared: OpaquePointer?
        guard sqlite3_prepare_v2(pointer, sql, -1, &prepared, nil) == SQLITE_OK, let prepared else { throw failure() }
        defer { sqlite3_finalize(prepared) }
        for (index, value) in values.enumerated() {
            let place = Int32(index + 1)
            let result =
                switch value {
                case .integer(let number): sqlite3_bind_int64(prepared, place, number)
                case .text(let text): csqlite_bind_text(prepared, place, text, Int32(clamping: text.utf8.count))
                case .null: sqlite3_bind_null(prepared, place)
                }
            guard result == SQLITE_OK else { throw failure() }
        }
        var rows: [Row] = []
        while true {
            switch sqlite3_step(prepared) {
            case SQLITE_ROW: rows.append(try read(SQLiteRow(statement: prepared)))
            case SQLITE_DONE: return rows
            default: throw failure()
            }
        }
    }

    /// Everything in `body` or nothing of it, with no other writer in between.
    ///
    /// - Parameter writes: false where `body` only reads: as it was at one moment, beside a writer that is about to
    ///   commit.
    borrowing func transaction<Result>(
        writes: Bool = true,
        _ body: () throws(LedgerError) -> Result
    ) throws(LedgerError) -> Result {
        // IMMEDIATE: what is read and decided on before writing cannot be changed by another operator meanwhile.
        try execute(writes ? "BEGIN IMMEDIATE" : "BEGIN")
        do throws(LedgerError) {
            let result = try body()
            try execute("COMMIT")
            return result
        } catch {
            _ = try? execute("ROLLBACK")
            throw error
        }
    }

    private borrowing func failure() -> LedgerError {
        let code = sqlite3_extended_errcode(pointer)
        let reason = String(cString: sqlite3_errmsg(pointer))
        switch code & 0xFF {
        case SQLITE_BUSY, SQLITE_LOCKED:
            return LedgerError(
                .busy,
                "the ledger \(path) has been in use by another process for \(Self.patience / 1000) s; try again when it is done"
            )
        case SQLITE_CORRUPT, SQLITE_NOTADB:
            return LedgerError(.damaged, Self.damage(path, reason))
        case SQLITE_FULL:
            return LedgerError(.file, "the ledger \(path) cannot be written: no space; free some on its file system")
        case SQLITE_READONLY, SQLITE_PERM, SQLITE_CANTOPEN, SQLITE_AUTH:
            return LedgerError(
                .file,
                "the ledger \(path) cannot be written: \(reason); check the owner and permissions of it and its directory"
            )
        case SQLITE_CONSTRAINT:
            return LedgerError(.conflict, "the ledger \(path) does not take this: \(reason)")
        default:
            return LedgerError(.file, "the ledger \(path) cannot be used: \(reason)")
        }
    }

    static func damage(_ path: String, _ reason: String) -> String {
        "the ledger \(path) is damaged (\(reason)). Put a copy of it back, or save what can be read with "
            + "`sqlite3 \(path) .recover | sqlite3 new.sqlite` and move that in its place; without either, move it away and "
            + "enroll the devices again: nothing on them is lost"
    }
}

/// The row that a query is at; valid only while it is read.
struct SQLiteRow: ~Copyable {
    fileprivate let statement: OpaquePointer

    borrowing func integer(_ column: Int32) -> Int64 { sqlite3_column_int64(statement, column) }

    borrowing func integerIfAny(_ column: Int32) -> Int64? {
        sqlite3_column_type(statement, column) == SQLITE_NULL ? nil : integer(column)
    }

    borrowing func text(_ column: Int32) -> String { textIfAny(column) ?? "" }

    borrowing func textIfAny(_ column: Int32) -> String? {
        guard let start = sqlite3_column_text(statement, column) else { return nil }
        let count = Int(sqlite3_column_bytes(statement, column))
        return String(decoding: UnsafeBufferPointer(start: start, count: count), as: UTF8.self)
    }
}
