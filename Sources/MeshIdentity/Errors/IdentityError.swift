import Glibc
package import Platform

/// Why something about keys, certificates or their files failed, with a message that says how to fix it.
///
/// A message never contains key material or a passphrase.
public struct IdentityError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What kind of failure this is; new kinds may be added.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        package enum Kind: String {
            case invalidKey, passphraseRequired, wrongPassphrase, invalidCertificate, expired, notYetValid,
                invalidRequest
            case keyMismatch
            case refused, alreadyExists, notFound, permissions, issuer, timedOut, file, crypto
        }
        package let kind: Kind
        public var description: String { kind.rawValue }

        /// The text is no private key, or one of a kind that is not supported.
        public static let invalidKey = Code(kind: .invalidKey)
        /// The key is encrypted and no passphrase was given.
        public static let passphraseRequired = Code(kind: .passphraseRequired)
        /// The passphrase does not open the key.
        public static let wrongPassphrase = Code(kind: .wrongPassphrase)
        /// The text is no certificate, or the certificate may not be used here.
        public static let invalidCertificate = Code(kind: .invalidCertificate)
        /// A certificate, good otherwise, is past its time.
        public static let expired = Code(kind: .expired)
        /// A certificate, good otherwise, is before its time: a clock is wrong.
        public static let notYetValid = Code(kind: .notYetValid)
        /// The text is no certificate request, or its signature or key is not acceptable.
        public static let invalidRequest = Code(kind: .invalidRequest)
        /// Key and certificate do not belong together.
        public static let keyMismatch = Code(kind: .keyMismatch)
        /// The issuer's rules do not allow it.
        public static let refused = Code(kind: .refused)
        /// Something is there already that must not be overwritten.
        public static let alreadyExists = Code(kind: .alreadyExists)
        /// The file or directory is not there.
        public static let notFound = Code(kind: .notFound)
        /// A private key can be read by others.
        public static let permissions = Code(kind: .permissions)
        /// An external issuer failed.
        public static let issuer = Code(kind: .issuer)
        /// No answer in time.
        public static let timedOut = Code(kind: .timedOut)
        /// A file operation failed: no space, read-only, no access.
        public static let file = Code(kind: .file)
        /// OpenSSL failed for a reason that is not the input's fault.
        public static let crypto = Code(kind: .crypto)
    }

    /// What kind of failure it is, for programs.
    public var code: Code
    /// What failed and how to fix it, for people.
    public var message: String

    /// - Parameters:
    ///   - code: What kind of failure it is.
    ///   - message: What failed and how to fix it; no secret.
    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    /// A certificate of our own side that does not keep the rules.
    init(_ error: SVIDError) {
        switch error.code {
        case .expired: self.init(.expired, error.message)
        case .notYetValid: self.init(.notYetValid, error.message)
        default: self.init(.invalidCertificate, error.message)
        }
    }

    /// A failure of the files that keys and certificates are in.
    package init(_ error: FileError) {
        let code: Code =
            switch error.code {
            case .notFound: .notFound
            case .alreadyExists: .alreadyExists
            case .timedOut: .timedOut
            case .file: .file
            }
        self.init(code, error.message)
    }

    public var description: String { message }
}

/// Work on files, whose failure is told as an ``IdentityError``.
package func fileWork<Result: ~Copyable>(
    _ work: @autoclosure () throws(FileError) -> Result
) throws(IdentityError) -> Result {
    do throws(FileError) { return try work() } catch { throw IdentityError(error) }
}

/// A file that says who is trusted, such as roots or a list of what was revoked.
///
/// - Parameter name: For messages, where `path` is relative to a directory's descriptor.
/// - Throws: ``IdentityError``; `permissions` where others than its owner may write it: they could add their own
///   root. Whose it is decides whoever names it: in a container it is mostly somebody's from outside.
package func trustFile(
    _ path: String,
    at directory: Int32 = AT_FDCWD,
    limit: Int = 1 << 20,
    named name: String? = nil
) throws(IdentityError) -> [UInt8] {
    let (bytes, access) = try fileWork(AtomicFile.readWithAccess(path, at: directory, limit: limit))
    try requireTrusted(access, path: name ?? path)
    return bytes
}

/// Refuses what says who is trusted, and can be changed by others.
func requireTrusted(_ access: FileAccess, path: String) throws(IdentityError) {
    guard access.isRegular, access.mode & 0o022 != 0 else { return }
    throw IdentityError(
        .permissions,
        "\(path) has permissions \(access.modeText): others can change who is trusted. "
            + "Look at what is in it, and then: chmod go-w \(path)"
    )
}
