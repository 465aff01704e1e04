import COpenSSL
import Platform

/// The passphrase of a private key. It prints as nothing and is wiped from memory when the last reference goes.
public final class Passphrase: @unchecked Sendable, Equatable, CustomStringConvertible {
    // Sendable: written in init, wiped in deinit, only read between.
    private let bytes: UnsafeMutableRawBufferPointer

    /// Copies the bytes; the caller's are the caller's to wipe.
    public init(_ bytes: some Collection<UInt8>) {
        self.bytes = .allocate(byteCount: bytes.count, alignment: 1)
        self.bytes.copyBytes(from: bytes)
    }

    /// The text in UTF-8. A `String` cannot be wiped: for what a person types, use bytes.
    public convenience init(_ text: String) { self.init(text.utf8) }

    deinit {
        OPENSSL_cleanse(bytes.baseAddress, bytes.count)
        bytes.deallocate()
    }

    /// Whether it has no byte; no key is encrypted with such a one.
    public var isEmpty: Bool { bytes.isEmpty }

    /// Bytes, not characters.
    public var count: Int { bytes.count }

    package func withBytes<Result>(_ body: (UnsafeRawBufferPointer) -> Result) -> Result {
        body(UnsafeRawBufferPointer(bytes))
    }

    /// Compares in constant time.
    public static func == (left: Passphrase, right: Passphrase) -> Bool {
        left.count == right.count && CRYPTO_memcmp(left.bytes.baseAddress, right.bytes.baseAddress, left.count) == 0
    }

    public var description: String { "(passphrase)" }
}

extension Passphrase {
    /// The first line of a file that nobody but its owner can read.
    ///
    /// - Parameters:
    ///   - what: What it is called in errors.
    ///   - isOwn: It must belong to root or the user of this process, too.
    package convenience init(
        file: String,
        called what: String = "passphrase",
        isOwn: Bool = false
    ) throws(IdentityError) {
        var (bytes, access) = try fileWork(AtomicFile.readWithAccess(file, limit: 4096))
        defer { bytes.withUnsafeMutableBytes { OPENSSL_cleanse($0.baseAddress, $0.count) } }
        if isOwn, let stranger = access.stranger(who: "can read the \(what) in it", file) {
            throw IdentityError(.permissions, "\(file) \(stranger)")
        }
        guard access.mode & 0o077 == 0 else {
            throw IdentityError(.permissions, "others can read the \(what) in \(file): chmod 600 \(file)")
        }
        let line = bytes.prefix { $0 != UInt8(ascii: "\n") && $0 != UInt8(ascii: "\r") }
        guard !line.isEmpty else {
            throw IdentityError(.wrongPassphrase, "the first line of \(file) is empty: it is the \(what)")
        }
        self.init(line)
    }
}
