import COpenSSL

/// A certificate signing request (PKCS#10, RFC 2986): a public key, the SPIFFE ID asked for, and the proof that the
/// requester has the private key.
///
/// Owns one `X509_REQ`.
// Sendable: the X509_REQ is not changed after init, and reading one changes nothing in it.
public final class CertificateRequest: @unchecked Sendable {
    let pointer: OpaquePointer

    private init(owning pointer: OpaquePointer) { self.pointer = pointer }

    deinit { X509_REQ_free(pointer) }

    /// More than this is no honest request: a P-256 one has about 400 bytes.
    package static let maximumLength = 64 * 1024

    /// A request as Istio's agents make it: empty subject, the SPIFFE ID as critical URI name, signed with the key.
    public static func create(key: PrivateKey, id: SPIFFEID) throws(IdentityError) -> CertificateRequest {
        OpenSSLErrors.clear()
        guard let pointer = X509_REQ_new() else { throw OpenSSLErrors.failure("make a certificate request") }
        let request = CertificateRequest(owning: pointer)
        var names = SubjectAlternativeNames()
        names.uris = [Array(id.description.utf8)]
        guard let extensions = copenssl_sk_X509_EXTENSION_new() else {
            throw OpenSSLErrors.failure("make a certificate request")
        }
        defer { copenssl_sk_X509_EXTENSION_pop_free(extensions) }
        guard let name = names.makeExtension(isCritical: true) else {
            throw OpenSSLErrors.failure("make a certificate request")
        }
        guard copenssl_sk_X509_EXTENSION_push(extensions, name) > 0 else {
            X509_EXTENSION_free(name)
            throw OpenSSLErrors.failure("make a certificate request")
        }
        guard X509_REQ_set_version(pointer, 0) == 1,
            X509_REQ_set_pubkey(pointer, key.pointer) == 1,
            X509_REQ_add_extensions(pointer, extensions) == 1,
            X509_REQ_sign(pointer, key.pointer, SignatureDigest.of(key.pointer)) > 0
        else { throw OpenSSLErrors.failure("sign a certificate request") }
        return request
    }

    /// Reads a request; nothing about it is checked yet, see `verify()`.
    public convenience init(pem: [UInt8]) throws(IdentityError) {
        guard pem.count <= Self.maximumLength else {
            throw IdentityError(
                .invalidRequest,
                "the certificate request has \(pem.count) bytes; at most \(Self.maximumLength) are read"
            )
        }
        OpenSSLErrors.clear()
        guard let pointer = MemoryBIO.reading(pem, { PEM_read_bio_X509_REQ($0, nil, nil, nil) }) else {
            throw IdentityError(
                .invalidRequest,
                "this is no certificate request in PEM form (\(OpenSSLErrors.drain())); "
                    + "it begins with -----BEGIN CERTIFICATE REQUEST-----"
            )
        }
        self.init(owning: pointer)
    }

    /// In PEM form, with the end of the last line.
    public var pem: [UInt8] { MemoryBIO.writing { PEM_write_bio_X509_REQ($0, pointer) == 1 } ?? [] }

    /// Checks that the key is one that mesh peers accept and that the requester holds it (the request's signature).
    public func verify() throws(IdentityError) {
        OpenSSLErrors.clear()
        guard let key = X509_REQ_get0_pubkey(pointer) else {
            throw IdentityError(.invalidRequest, "the certificate request has no readable public key")
        }
        if let weakness = PublicKeyRules.weakness(of: key) {
            throw IdentityError(.invalidRequest, "the public key of the certificate request \(weakness)")
        }
        guard X509_REQ_verify(pointer, key) == 1 else {
            OpenSSLErrors.clear()
            throw IdentityError(
                .invalidRequest,
                "the signature of the certificate request is not by its own key: the requester has not proved that it has it"
            )
        }
    }

    /// The SPIFFE ID that the requester asks for; nil if it asks for none. It is a wish: who issues decides.
    public func requestedID() throws(SVIDError) -> SPIFFEID? {
        let names = try names()
        return names.uris.isEmpty ? nil : try names.spiffeID()
    }

    /// Whether the certificate is for the public key of this request.
    package func matches(_ certificate: Certificate) -> Bool {
        guard let ours = X509_REQ_get0_pubkey(pointer), let theirs = X509_get0_pubkey(certificate.pointer) else {
            return false
        }
        return EVP_PKEY_eq(ours, theirs) == 1
    }

    private func names() throws(SVIDError) -> SubjectAlternativeNames {
        guard let extensions = X509_REQ_get_extensions(pointer) else { return SubjectAlternativeNames() }
        defer { copenssl_sk_X509_EXTENSION_pop_free(extensions) }
        guard let found = copenssl_sk_X509_EXTENSION_find(extensions, NID_subject_alt_name) else {
            return SubjectAlternativeNames()
        }
        guard let decoded = X509V3_EXT_d2i(found) else {
            throw SVIDError(.malformed, "the subject alternative names of the certificate request are damaged")
        }
        let names = OpaquePointer(decoded)
        defer { GENERAL_NAMES_free(names) }
        return SubjectAlternativeNames(reading: names)
    }
}

enum SignatureDigest {
    /// The digest that goes with a key; Ed25519 has its own.
    static func of(_ key: OpaquePointer) -> OpaquePointer? {
        EVP_PKEY_is_a(key, "ED25519") == 1 ? nil : EVP_sha256()
    }
}
