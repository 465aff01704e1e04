import COpenSSL

/// A private key: what a workload, or a CA, proves its identity with.
///
/// Owns one reference to an `EVP_PKEY`.
// Sendable: the EVP_PKEY is reference counted atomically and never changed after init; OpenSSL's lazily filled caches
// inside it are guarded by its own lock.
public final class PrivateKey: @unchecked Sendable {
    /// The `EVP_PKEY`, borrowed: take a reference (`EVP_PKEY_up_ref`) to keep it longer than this object.
    package let pointer: OpaquePointer

    /// Takes over one reference.
    init(owning pointer: OpaquePointer) { self.pointer = pointer }

    deinit { EVP_PKEY_free(pointer) }

    /// A new ECDSA key on P-256: what every mesh peer accepts.
    public static func generate() throws(IdentityError) -> PrivateKey {
        OpenSSLErrors.clear()
        guard let pointer = copenssl_EVP_EC_gen("P-256") else { throw OpenSSLErrors.failure("make a P-256 key") }
        return PrivateKey(owning: pointer)
    }

    /// Reads a key in PEM: PKCS#8, encrypted PKCS#8, or the traditional formats of OpenSSL.
    ///
    /// Never asks on the terminal. Fails with `passphraseRequired` if the key is encrypted and `passphrase` is nil,
    /// `wrongPassphrase` if it does not open it, `invalidKey` if this is no key or one no mesh peer accepts.
    public convenience init(pem: [UInt8], passphrase: Passphrase? = nil) throws(IdentityError) {
        OpenSSLErrors.clear()
        var request = PassphraseRequest(passphrase: passphrase)
        let pointer = MemoryBIO.reading(pem) { bio in
            withUnsafeMutablePointer(to: &request) { request in
                PEM_read_bio_PrivateKey(bio, nil, answerPassphraseRequest, request)
            }
        }
        guard let pointer else {
            let reason = OpenSSLErrors.drain()
            if request.wasAsked {
                guard passphrase != nil else {
                    throw IdentityError(.passphraseRequired, "the private key is encrypted: a passphrase is needed")
                }
                throw IdentityError(.wrongPassphrase, "the passphrase does not open the private key")
            }
            throw IdentityError(.invalidKey, "this is no private key in PEM form (\(reason))")
        }
        self.init(owning: pointer)
        if let weakness = PublicKeyRules.weakness(of: pointer) {
            throw IdentityError(.invalidKey, "the private key \(weakness)")
        }
    }

    /// Reads a key in the DER form of PKCS#8, not encrypted, and nothing behind it.
    ///
    /// - Throws: `invalidKey` if this is no key, or one no mesh peer accepts.
    package convenience init(pkcs8 der: [UInt8]) throws(IdentityError) {
        OpenSSLErrors.clear()
        let pointer = der.withUnsafeBufferPointer { buffer -> OpaquePointer? in
            var start = buffer.baseAddress
            guard let info = d2i_PKCS8_PRIV_KEY_INFO(nil, &start, buffer.count) else { return nil }
            defer { PKCS8_PRIV_KEY_INFO_free(info) }
            guard start == buffer.baseAddress.map({ $0 + buffer.count }) else { return nil }
            return EVP_PKCS82PKEY(info)
        }
        // What OpenSSL says of it is not told: nothing of a key goes into a message.
        OpenSSLErrors.clear()
        guard let pointer else { throw IdentityError(.invalidKey, "this is no private key in the DER form of PKCS#8") }
        self.init(owning: pointer)
        if let weakness = PublicKeyRules.weakness(of: pointer) {
            throw IdentityError(.invalidKey, "the private key \(weakness)")
        }
    }

    /// PKCS#8 in PEM, not encrypted: for a file that only its owner can read.
    public func pem() throws(IdentityError) -> [UInt8] {
        OpenSSLErrors.clear()
        let pem = MemoryBIO.writing { PEM_write_bio_PKCS8PrivateKey($0, pointer, nil, nil, 0, nil, nil) == 1 }
        guard let pem else { throw OpenSSLErrors.failure("write the private key") }
        return pem
    }

    /// PKCS#8 in PEM, encrypted with AES-256-CBC under a key that scrypt makes of the passphrase.
    public func pem(encryptedWith passphrase: Passphrase) throws(IdentityError) -> [UInt8] {
        guard !passphrase.isEmpty else { throw IdentityError(.wrongPassphrase, "the passphrase is empty") }
        OpenSSLErrors.clear()
        // N = 2^14, r = 8, p = 5 costs what OWASP asks for and stays under the 32 MiB at which OpenSSL refuses to read.
        guard let clear = EVP_PKEY2PKCS8(pointer) else { throw OpenSSLErrors.failure("encode the private key") }
        defer { PKCS8_PRIV_KEY_INFO_free(clear) }
        guard let scheme = PKCS5_pbe2_set_scrypt(EVP_aes_256_cbc(), nil, 0, nil, 1 << 14, 8, 5) else {
            throw OpenSSLErrors.failure("set up scrypt")
        }
        let encrypted = passphrase.withBytes { bytes in
            PKCS8_set0_pbe(bytes.assumingMemoryBound(to: CChar.self).baseAddress, Int32(bytes.count), clear, scheme)
        }
        guard let encrypted else {
            X509_ALGOR_free(scheme)
            throw OpenSSLErrors.failure("encrypt the private key")
        }
        defer { X509_SIG_free(encrypted) }
        guard let pem = MemoryBIO.writing({ PEM_write_bio_PKCS8($0, encrypted) == 1 }) else {
            throw OpenSSLErrors.failure("write the private key")
        }
        return pem
    }

    /// Whether the certificate is for this key.
    public func matches(_ certificate: Certificate) -> Bool {
        guard let publicKey = X509_get0_pubkey(certificate.pointer) else { return false }
        return EVP_PKEY_eq(pointer, publicKey) == 1
    }
}

/// What OpenSSL's passphrase callback needs to know, and what it has to tell.
private struct PassphraseRequest {
    let passphrase: Passphrase?
    var wasAsked = false
}

private func answerPassphraseRequest(
    buffer: UnsafeMutablePointer<CChar>?,
    size: Int32,
    isWriting: Int32,
    context: UnsafeMutableRawPointer?
) -> Int32 {
    guard let request = context?.assumingMemoryBound(to: PassphraseRequest.self), let buffer else { return -1 }
    request.pointee.wasAsked = true
    guard let passphrase = request.pointee.passphrase, passphrase.count <= size else { return -1 }
    passphrase.withBytes { UnsafeMutableRawBufferPointer(start: buffer, count: Int(size)).copyMemory(from: $0) }
    return Int32(passphrase.count)
}

/// Which public keys are good enough for a mesh peer.
enum PublicKeyRules {
    /// Why the key is not acceptable; nil if it is. The list is what TLS 1.3 peers verify (RFC 8446 §4.2.3).
    static func weakness(of key: OpaquePointer?) -> String? {
        guard let key else { return "cannot be read" }
        let bits = EVP_PKEY_get_bits(key)
        if EVP_PKEY_is_a(key, "ED25519") == 1 { return nil }
        if EVP_PKEY_is_a(key, "RSA") == 1 {
            return bits >= 2048 ? nil : "is RSA with \(bits) bits; at least 2048 are needed"
        }
        guard EVP_PKEY_is_a(key, "EC") == 1 else {
            return "is of a kind that mesh peers do not accept; use ECDSA P-256"
        }
        var name = [CChar](repeating: 0, count: 64)
        var length = 0
        // RFC 5480 §2.1.1: curves go by name. Spelled-out parameters once let forgeries pass (CVE-2020-0601).
        var isSpelledOut: Int32 = 0
        EVP_PKEY_get_int_param(key, OSSL_PKEY_PARAM_EC_DECODED_FROM_EXPLICIT_PARAMS, &isSpelledOut)
        guard isSpelledOut == 0, EVP_PKEY_get_group_name(key, &name, name.count, &length) == 1 else {
            return "is on a curve without a name; use P-256"
        }
        let curve = String(decoding: name.prefix(length).map(UInt8.init(bitPattern:)), as: UTF8.self)
        guard ["prime256v1", "secp384r1", "secp521r1"].contains(curve) else {
            return "is on the curve \(curve), which TLS 1.3 does not allow; use P-256"
        }
        return nil
    }
}
