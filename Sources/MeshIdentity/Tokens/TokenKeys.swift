import COpenSSL
import Platform

/// A public key of an issuer of tokens. What it is, and nothing that a token says, decides which signatures it makes.
///
/// Owns one reference to an `EVP_PKEY`.
// Sendable: the EVP_PKEY is reference counted atomically and never changed after init; OpenSSL's lazily filled caches
// inside it are guarded by its own lock.
final class TokenKey: @unchecked Sendable {
    enum Algorithm: String, Hashable, Sendable {
        case rs256 = "RS256"
        case es256 = "ES256"
        case edDSA = "EdDSA"
    }

    let id: String?
    let algorithm: Algorithm
    private let pointer: OpaquePointer

    /// One element of `keys` (RFC 7517); nil for a key that is for something else, or of a kind that is not served.
    ///
    /// - Throws: ``TokenError`` for one that should be for this and is not right.
    init?(_ key: StrictJSON) throws(TokenError) {
        guard case .object(let members) = key else { throw TokenError(.keys, "it is no object") }
        func text(_ name: String) throws(TokenError) -> String? {
            guard let value = members[name] else { return nil }
            guard let text = value.text else { throw TokenError(.keys, "its '\(name)' is no text") }
            return text
        }
        // Whoever has it signs in the issuer's name, and files of public keys are read by many.
        guard members["d"] == nil, members["k"] == nil else {
            throw TokenError(.keys, "it is a secret key: only the public part belongs here")
        }
        id = try text("kid")
        if let use = try text("use"), use != "sig" { return nil }
        if case .array(let operations) = members["key_ops"], !operations.contains(.string("verify")) { return nil }
        let kind = try text("kty")
        guard kind != nil else { throw TokenError(.keys, "it has no 'kty'") }
        let algorithm: Algorithm
        switch (kind, try text("crv")) {
        case ("RSA", _): algorithm = .rs256
        case ("EC", "P-256"): algorithm = .es256
        case ("OKP", "Ed25519"): algorithm = .edDSA
        default: return nil
        }
        // RFC 9864 has another name for the one kind of EdDSA that there is here.
        if let name = try text("alg"), name != algorithm.rawValue, !(algorithm == .edDSA && name == "Ed25519") {
            return nil
        }
        self.algorithm = algorithm
        func number(_ name: String) throws(TokenError) -> [UInt8] {
            guard let encoded = try text(name), let bytes = Base64.decodeURL(encoded), !bytes.isEmpty else {
                throw TokenError(.keys, "its '\(name)' is not unpadded base64url")
            }
            return bytes
        }
        let information: [UInt8]
        switch algorithm {
        case .rs256:
            let (modulus, exponent) = (try number("n"), try number("e"))
            guard modulus.first != 0, exponent.first != 0, (256...1024).contains(modulus.count), exponent.count <= 4,
                exponent.last.map({ $0 & 1 }) == 1, exponent != [1]
            else { throw TokenError(.keys, "it is RSA with other than 2048 to 8192 bits, or an unusual exponent") }
            information = DEREncoding.sequence(
                DEREncoding.sequence(
                    DEREncoding.objectIdentifier([0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01]),
                    DEREncoding.null
                ),
                DEREncoding.bitString(DEREncoding.sequence(DEREncoding.integer(modulus), DEREncoding.integer(exponent)))
            )
        case .es256:
            let (x, y) = (try number("x"), try number("y"))
            guard x.count == 32, y.count == 32 else { throw TokenError(.keys, "its point is not 32 and 32 bytes long") }
            information = DEREncoding.sequence(
                DEREncoding.sequence(
                    DEREncoding.objectIdentifier([0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01]),
                    DEREncoding.objectIdentifier([0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07])
                ),
                DEREncoding.bitString([4] + x + y)
            )
        case .edDSA:
            let point = try number("x")
            guard point.count == 32 else { throw TokenError(.keys, "its 'x' is not 32 bytes long") }
            information = DEREncoding.sequence(
                DEREncoding.sequence(DEREncoding.objectIdentifier([0x2B, 0x65, 0x70])),
                DEREncoding.bitString(point)
            )
        }
        OpenSSLErrors.clear()
        defer { OpenSSLErrors.clear() }
        let decoded = information.withUnsafeBufferPointer { bytes in
            var cursor = bytes.baseAddress
            return d2i_PUBKEY(nil, &cursor, bytes.count)
        }
        guard let decoded else { throw TokenError(.keys, "its numbers are no public key") }
        pointer = decoded
        guard PublicKeyRules.weakness(of: decoded) == nil else { throw TokenError(.keys, "its numbers are too weak") }
    }

    deinit { EVP_PKEY_free(pointer) }

    /// Whether it makes the same signatures.
    func isSame(as other: TokenKey) -> Bool {
        algorithm == other.algorithm && EVP_PKEY_eq(pointer, other.pointer) == 1
    }

    func verifies(_ signature: [UInt8], of message: [UInt8]) -> Bool {
        OpenSSLErrors.clear()
        // Whatever OpenSSL thinks of a bad signature must not be found by the next caller.
        defer { OpenSSLErrors.clear() }
        var encoded = signature
        switch algorithm {
        case .rs256: guard signature.count == (EVP_PKEY_get_bits(pointer) + 7) / 8 else { return false }
        case .edDSA: guard signature.count == 64 else { return false }
        case .es256:
            // RFC 7518 §3.4: both numbers, 32 bytes each.
            guard signature.count == 64 else { return false }
            encoded = DEREncoding.sequence(
                DEREncoding.integer(signature[..<32]),
                DEREncoding.integer(signature[32...])
            )
        }
        guard let context = EVP_MD_CTX_new() else { return false }
        defer { EVP_MD_CTX_free(context) }
        let digest = algorithm == .edDSA ? nil : EVP_sha256()
        guard EVP_DigestVerifyInit(context, nil, digest, nil, pointer) == 1 else { return false }
        return EVP_DigestVerify(context, encoded, encoded.count, message, message.count) == 1
    }
}

/// The public keys of an issuer: a JSON Web Key Set (RFC 7517 §5).
package struct TokenKeys: Sendable {
    package static let maximumSize = 256 << 10
    package static let maximumCount = 64

    let keys: [TokenKey]

    /// - Throws: ``TokenError`` with code `keys`.
    package init(parsing bytes: [UInt8]) throws(TokenError) {
        guard bytes.count <= Self.maximumSize else {
            throw TokenError(.keys, "it has more than \(Self.maximumSize >> 10) KiB")
        }
        let document: StrictJSON
        do throws(StrictJSON.Unreadable) {
            document = try StrictJSON(parsing: bytes)
        } catch {
            throw TokenError(.keys, "it is not JSON that has one meaning: \(error)")
        }
        guard case .array(let elements) = document["keys"] else {
            throw TokenError(.keys, "it is no set of keys: {\"keys\": […]}")
        }
        guard elements.count <= Self.maximumCount else {
            throw TokenError(.keys, "it has more than \(Self.maximumCount) keys")
        }
        var keys: [TokenKey] = []
        for (index, element) in elements.enumerated() {
            do throws(TokenError) {
                guard let key = try TokenKey(element) else { continue }
                keys.append(key)
            } catch {
                throw TokenError(.keys, "key \(index + 1): \(error.message)")
            }
        }
        let names = elements.compactMap { $0["kid"]?.text }
        guard Set(names).count == names.count else { throw TokenError(.keys, "it has a 'kid' twice") }
        guard !keys.isEmpty else {
            throw TokenError(.keys, "it has no key for RS256, ES256 or EdDSA, which are those that are served")
        }
        self.keys = keys
    }

    /// Reads a file.
    package init(loading path: String) throws(TokenError) {
        do throws(TokenError) {
            let file: (bytes: [UInt8], access: FileAccess)?
            do throws(LocalFile.Failure) {
                file = try LocalFile.readWithAccess(path, limit: Self.maximumSize, allowsPipe: false)
            } catch {
                throw TokenError(.keys, error.reason)
            }
            guard let file else { throw TokenError(.keys, "there is no such file") }
            do throws(IdentityError) {
                try requireTrusted(file.access, path: path)
            } catch {
                throw TokenError(.keys, error.message)
            }
            try self.init(parsing: file.bytes)
        } catch {
            throw TokenError(.keys, "\(path): \(error.message)")
        }
    }
}
