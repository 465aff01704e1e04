import COpenSSL

// Signatures over bytes, with the key of a certificate: what is signed is exactly what is given.
extension PrivateKey {
    /// ECDSA and RSA with SHA-256, Ed25519 as it is.
    package func signature(of bytes: [UInt8]) throws(IdentityError) -> [UInt8] {
        OpenSSLErrors.clear()
        guard let context = EVP_MD_CTX_new() else { throw OpenSSLErrors.failure("sign") }
        defer { EVP_MD_CTX_free(context) }
        var count = 0
        guard EVP_DigestSignInit(context, nil, SignatureDigest.of(pointer), nil, pointer) == 1,
            EVP_DigestSign(context, nil, &count, bytes, bytes.count) == 1
        else { throw OpenSSLErrors.failure("sign") }
        var signature = [UInt8](repeating: 0, count: count)
        guard EVP_DigestSign(context, &signature, &count, bytes, bytes.count) == 1 else {
            throw OpenSSLErrors.failure("sign")
        }
        return Array(signature.prefix(count))
    }
}

extension Certificate {
    /// Whether its key has made `signature` over `bytes`. Says nothing about the certificate itself.
    package func verifies(_ signature: [UInt8], of bytes: [UInt8]) -> Bool {
        OpenSSLErrors.clear()
        // Whatever OpenSSL thinks of a bad signature must not be found by the next caller.
        defer { OpenSSLErrors.clear() }
        guard let key = X509_get0_pubkey(pointer), let context = EVP_MD_CTX_new() else { return false }
        defer { EVP_MD_CTX_free(context) }
        guard EVP_DigestVerifyInit(context, nil, SignatureDigest.of(key), nil, key) == 1 else { return false }
        return EVP_DigestVerify(context, signature, signature.count, bytes, bytes.count) == 1
    }
}
