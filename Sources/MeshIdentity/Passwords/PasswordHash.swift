import COpenSSL
package import Platform

/// A hashed password, as a `users:` file has it: PBKDF2 with HMAC-SHA-256 (RFC 8018), written as a PHC string.
///
///     $pbkdf2-sha256$i=600000$SALT$HASH        base64 without padding
///
/// Verifying takes a good part of a second of a processor, which is its purpose: not on an event loop.
package struct PasswordHash: Hashable, Sendable, CustomStringConvertible {
    /// Fewer are found out too fast; more would let one login stop the others.
    package static let iterations = 10_000...10_000_000

    private let count: Int
    private let salt: [UInt8]
    private let hash: [UInt8]

    private static let form =
        "must be '$pbkdf2-sha256$i=COUNT$SALT$HASH', as `bootstrap node --hash-password` prints it"

    /// - Parameter iterations: In ``iterations``.
    package init(of password: [UInt8], iterations: Int = 600_000) throws(IdentityError) {
        var salt = [UInt8](repeating: 0, count: 16)
        guard RAND_bytes(&salt, Int32(salt.count)) == 1 else { throw OpenSSLErrors.failure("get random bytes") }
        count = iterations
        self.salt = salt
        hash = Self.derive(password, salt, iterations, length: 32)
    }

    /// - Throws: What is wrong with the text, without repeating it.
    package init(parsing text: some StringProtocol) throws(AddressError) {
        let parts = text.split(separator: "$", omittingEmptySubsequences: false)
        guard parts.count == 5, parts[0].isEmpty, parts[1] == "pbkdf2-sha256", parts[2].hasPrefix("i="),
            let count = Int(parts[2].dropFirst(2)), let salt = Self.decode(parts[3]), let hash = Self.decode(parts[4])
        else { throw AddressError("the hash \(Self.form)") }
        guard Self.iterations.contains(count) else {
            throw AddressError("the hash has \(count) iterations: it must have \(Self.iterations)")
        }
        guard (8...64).contains(salt.count), (16...64).contains(hash.count) else {
            throw AddressError("the hash \(Self.form), with 8 to 64 bytes of salt and 16 to 64 of hash")
        }
        (self.count, self.salt, self.hash) = (count, salt, hash)
    }

    /// In a time that does not tell how much of it was right.
    package func matches(_ password: [UInt8]) -> Bool {
        let derived = Self.derive(password, salt, count, length: hash.count)
        return CRYPTO_memcmp(derived, hash, hash.count) == 0
    }

    package var description: String {
        "$pbkdf2-sha256$i=\(count)$\(Self.encode(salt))$\(Self.encode(hash))"
    }

    /// What stands for a secret where it must be recognised again within this process, and not be read.
    ///
    /// - Parameter key: Random, and nobody else's.
    package static func fingerprint(_ secret: [UInt8], key: [UInt8]) -> [UInt8] {
        derive(secret, key, 1, length: 32)
    }

    /// For ``fingerprint(_:key:)``.
    package static func randomKey() -> [UInt8] {
        var key = [UInt8](repeating: 0, count: 32)
        precondition(RAND_bytes(&key, Int32(key.count)) == 1, "there are no random bytes")
        return key
    }

    private static func derive(_ password: [UInt8], _ salt: [UInt8], _ count: Int, length: Int) -> [UInt8] {
        var derived = [UInt8](repeating: 0, count: length)
        let isDone = password.withUnsafeBytes { bytes in
            PKCS5_PBKDF2_HMAC(
                bytes.baseAddress?.assumingMemoryBound(to: CChar.self),
                Int32(bytes.count),
                salt,
                Int32(salt.count),
                Int32(count),
                EVP_sha256(),
                Int32(length),
                &derived
            )
        }
        // It cannot fail for what is in range; a hash of zeros must never match.
        precondition(isDone == 1, "PBKDF2 failed")
        return derived
    }

    private static func encode(_ bytes: [UInt8]) -> String { Base64.encode(bytes, padded: false) }

    private static func decode(_ text: some StringProtocol) -> [UInt8]? {
        guard !text.isEmpty, text.utf8.count <= 128 else { return nil }
        return Base64.decode(text + String(repeating: "=", count: (4 - text.utf8.count % 4) % 4))
    }
}
