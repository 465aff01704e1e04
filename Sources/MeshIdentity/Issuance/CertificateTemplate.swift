import COpenSSL

/// The fields of a certificate that is to be signed.
struct CertificateTemplate {
    /// Extensions that OpenSSL makes of a constant text; nothing from outside gets in here.
    typealias ConstantExtension = (nid: Int32, value: String)

    var subject: [(field: String, value: String)] = []
    var names = SubjectAlternativeNames()
    /// Seconds since 1970.
    var notBefore: Int64
    /// Seconds since 1970.
    var notAfter: Int64
    var extensions: [ConstantExtension]

    static let authority: [ConstantExtension] = [
        (NID_basic_constraints, "critical,CA:TRUE"),
        (NID_key_usage, "critical,keyCertSign,cRLSign"),
        (NID_subject_key_identifier, "hash"),
    ]

    static let workload: [ConstantExtension] = [
        (NID_basic_constraints, "critical,CA:FALSE"),
        (NID_key_usage, "critical,digitalSignature"),
        (NID_ext_key_usage, "serverAuth,clientAuth"),
        (NID_subject_key_identifier, "hash"),
        (NID_authority_key_identifier, "keyid:always"),
    ]

    /// For a key that signs data, and shows itself in no handshake.
    static let dataSigner: [ConstantExtension] = [
        (NID_basic_constraints, "critical,CA:FALSE"),
        (NID_key_usage, "critical,digitalSignature"),
        (NID_ext_key_usage, "critical,codeSigning"),
        (NID_subject_key_identifier, "hash"),
        (NID_authority_key_identifier, "keyid:always"),
    ]

    /// A signed certificate.
    ///
    /// - Parameters:
    ///   - publicKey: an `EVP_PKEY`, borrowed.
    ///   - issuer: nil for a root, which signs itself.
    func sign(publicKey: OpaquePointer, issuer: Certificate?, key: PrivateKey) throws(IdentityError) -> Certificate {
        OpenSSLErrors.clear()
        guard let pointer = X509_new() else { throw OpenSSLErrors.failure("make a certificate") }
        let certificate = Certificate(owning: pointer)
        guard X509_set_version(pointer, 2) == 1,
            X509_set_pubkey(pointer, publicKey) == 1,
            ASN1_TIME_set(X509_getm_notBefore(pointer), time_t(notBefore)) != nil,
            ASN1_TIME_set(X509_getm_notAfter(pointer), time_t(notAfter)) != nil
        else { throw OpenSSLErrors.failure("fill in a certificate") }
        try setSerialNumber(pointer)
        for (field, value) in subject {
            let bytes = Array(value.utf8)
            let name = X509_get_subject_name(pointer)
            guard X509_NAME_add_entry_by_txt(name, field, MBSTRING_UTF8, bytes, Int32(bytes.count), -1, 0) == 1 else {
                throw OpenSSLErrors.failure("fill in the subject of a certificate")
            }
        }
        let issuerName = X509_get_subject_name(issuer?.pointer ?? pointer)
        guard X509_set_issuer_name(pointer, issuerName) == 1 else { throw OpenSSLErrors.failure("name the issuer") }
        try addExtensions(pointer, issuer: issuer?.pointer ?? pointer)
        guard X509_sign(pointer, key.pointer, SignatureDigest.of(key.pointer)) > 0 else {
            throw OpenSSLErrors.failure("sign a certificate")
        }
        return certificate
    }

    /// 158 random bits in 20 bytes, positive: RFC 5280 §4.1.2.2 allows no more, and 64 is the least that is safe.
    private func setSerialNumber(_ pointer: OpaquePointer) throws(IdentityError) {
        var bytes = [UInt8](repeating: 0, count: 20)
        guard RAND_bytes(&bytes, Int32(bytes.count)) == 1 else { throw OpenSSLErrors.failure("draw a serial number") }
        bytes[0] = bytes[0] & 0x7F | 0x40
        guard let number = BN_bin2bn(bytes, Int32(bytes.count), nil) else {
            throw OpenSSLErrors.failure("draw a serial number")
        }
        defer { BN_free(number) }
        guard BN_to_ASN1_INTEGER(number, X509_get_serialNumber(pointer)) != nil else {
            throw OpenSSLErrors.failure("set a serial number")
        }
    }

    private func addExtensions(_ pointer: OpaquePointer, issuer: OpaquePointer) throws(IdentityError) {
        var context = X509V3_CTX()
        X509V3_set_ctx(&context, issuer, pointer, nil, nil, 0)
        var made: [OpaquePointer?] = []
        defer { for case let found? in made { X509_EXTENSION_free(found) } }
        for (nid, value) in extensions {
            made.append(X509V3_EXT_nconf_nid(nil, &context, nid, value))
            guard let last = made.last, let last, X509_add_ext(pointer, last, -1) == 1 else {
                throw OpenSSLErrors.failure("add an extension to a certificate")
            }
        }
        // RFC 5280 §4.2.1.6: critical where the subject is empty.
        made.append(names.makeExtension(isCritical: subject.isEmpty))
        guard let last = made.last, let last, X509_add_ext(pointer, last, -1) == 1 else {
            throw OpenSSLErrors.failure("add the names to a certificate")
        }
    }
}
