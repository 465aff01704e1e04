/// Why the ledger could not be read or written, with a message that says how to fix it.
package struct LedgerError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What kind of failure this is; new kinds may be added.
    package struct Code: Hashable, Sendable, CustomStringConvertible {
        package enum Kind: String {
            case file, busy, damaged, newer, conflict, invalid, revoked, limit, forked, unknownCertificate
        }
        package let kind: Kind
        package var description: String { kind.rawValue }

        /// It cannot be opened, read or written: no access, no space, read-only.
        package static let file = Code(kind: .file)
        /// Another process has been writing for longer than we wait.
        package static let busy = Code(kind: .busy)
        /// The file is no ledger, or a damaged one.
        package static let damaged = Code(kind: .damaged)
        /// A later release has written it.
        package static let newer = Code(kind: .newer)
        /// What is there already does not allow it.
        package static let conflict = Code(kind: .conflict)
        /// What is to be written is not possible.
        package static let invalid = Code(kind: .invalid)
        /// The device, or the certificate that was shown, is revoked.
        package static let revoked = Code(kind: .revoked)
        /// Too early, or too many.
        package static let limit = Code(kind: .limit)
        /// The certificate that was shown has been replaced by one that its device acknowledged.
        package static let forked = Code(kind: .forked)
        /// The certificate that was shown is not known.
        package static let unknownCertificate = Code(kind: .unknownCertificate)
    }

    package var code: Code
    package var message: String

    package init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    package var description: String { message }
}
