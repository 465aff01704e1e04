/// Why the ledger could not be read or written, with a message that says how to mend it.
public struct LedgerError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What kind of failure this is; new kinds may be added.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        package enum Kind: String {
            case file, busy, damaged, newer, conflict, invalid
        }
        package let kind: Kind
        public var description: String { kind.rawValue }

        /// It cannot be opened, read or written: no access, no space, read-only.
        public static let file = Code(kind: .file)
        /// Another process has been writing for longer than we wait.
        public static let busy = Code(kind: .busy)
        /// The file is no ledger, or a damaged one.
        public static let damaged = Code(kind: .damaged)
        /// A later release has written it.
        public static let newer = Code(kind: .newer)
        /// What is there already does not allow it.
        public static let conflict = Code(kind: .conflict)
        /// What is to be written is not possible.
        public static let invalid = Code(kind: .invalid)
    }

    public var code: Code
    public var message: String

    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    public var description: String { message }
}
