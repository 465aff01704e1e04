import COpenSSL
import Glibc
import Platform

/// An X.509 certificate. Holding one says nothing about trust: `TrustBundle.verify` does.
///
/// Owns one reference to an `X509`.
// Sendable: the X509 is reference counted atomically and never changed after init; what OpenSSL caches in it lazily
// (its decoded extensions) is filled under the object's own lock.
public final class Certificate: @unchecked Sendable {
    /// The `X509`, borrowed: take a reference (`X509_up_ref`) to keep it longer than this object.
    package let pointer: OpaquePointer

    /// Takes over one reference.
    init(owning pointer: OpaquePointer) { self.pointer = pointer }

    /// Takes a reference of its own to a borrowed `X509`, as a TLS callback is given.
    package init(retaining pointer: OpaquePointer) {
        X509_up_ref(pointer)
        self.pointer = pointer
    }

    deinit { X509_free(pointer) }

    /// The certificates of a borrowed `STACK_OF(X509)`, in its order; nil is an empty stack.
    package static func all(in stack: OpaquePointer?) -> [Certificate] {
        guard let stack else { return [] }
        return (0..<copenssl_sk_X509_num(stack)).compactMap { index in
            copenssl_sk_X509_value(stack, index).map { Certificate(retaining: $0) }
        }
    }

    /// - Parameter der: One certificate, and nothing behind it.
    /// - Throws: `invalidCertificate`.
    public convenience init(der: [UInt8]) throws(IdentityError) {
        OpenSSLErrors.clear()
        let parsed = der.withUnsafeBufferPointer { buffer -> OpaquePointer? in
            var start = buffer.baseAddress
            guard let pointer = d2i_X509(nil, &start, buffer.count) else { return nil }
            guard start == buffer.baseAddress.map({ $0 + buffer.count }) else {
                X509_free(pointer)
                return nil
            }
            return pointer
        }
        guard let parsed else {
            throw IdentityError(.invalidCertificate, "this is no certificate in DER form (\(OpenSSLErrors.drain()))")
        }
        self.init(owning: parsed)
    }

    /// The one certificate in a PEM text.
    public convenience init(pem: [UInt8]) throws(IdentityError) {
        let all = try Certificate.all(pem: pem)
        guard all.count == 1 else {
            throw IdentityError(.invalidCertificate, "there are \(all.count) certificates where one is expected")
        }
        X509_up_ref(all[0].pointer)
        self.init(owning: all[0].pointer)
    }

    /// All certificates of a PEM text in its order, at least one. Text between them is skipped; a damaged one is an
    /// error.
    public static func all(pem: [UInt8]) throws(IdentityError) -> [Certificate] {
        OpenSSLErrors.clear()
        let (certificates, isDamaged) = MemoryBIO.reading(pem) { bio in
            var certificates: [Certificate] = []
            while let pointer = PEM_read_bio_X509(bio, nil, nil, nil) {
                certificates.append(Certificate(owning: pointer))
            }
            let last = ERR_peek_last_error()
            return (certificates, !(ERR_GET_LIB(last) == ERR_LIB_PEM && ERR_GET_REASON(last) == PEM_R_NO_START_LINE))
        }
        let reason = OpenSSLErrors.drain()
        guard !isDamaged else {
            throw IdentityError(
                .invalidCertificate,
                "certificate \(certificates.count + 1) of the PEM text is damaged (\(reason))"
            )
        }
        guard !certificates.isEmpty else {
            throw IdentityError(.invalidCertificate, "there is no certificate in PEM form here")
        }
        return certificates
    }

    /// Certificates in DER form, one after the other and nothing between or behind them, as the SPIFFE Workload API has
    /// them.
    ///
    /// - Parameter limit: More are an error.
    /// - Throws: `invalidCertificate`; also when there is none.
    package static func all(der: [UInt8], limit: Int) throws(IdentityError) -> [Certificate] {
        OpenSSLErrors.clear()
        guard !der.isEmpty else { throw IdentityError(.invalidCertificate, "there is no certificate") }
        let certificates = der.withUnsafeBufferPointer { buffer -> [Certificate] in
            var certificates: [Certificate] = []
            var start = buffer.baseAddress
            let end = buffer.baseAddress.map { $0 + buffer.count }
            while let from = start, let end, from < end, certificates.count <= limit {
                guard let pointer = d2i_X509(nil, &start, end - from) else { return [] }
                certificates.append(Certificate(owning: pointer))
            }
            return certificates
        }
        let reason = OpenSSLErrors.drain()
        guard !certificates.isEmpty else {
            throw IdentityError(.invalidCertificate, "these are no certificates in DER form (\(reason))")
        }
        guard certificates.count <= limit else {
            throw IdentityError(.invalidCertificate, "there are more than \(limit) certificates")
        }
        return certificates
    }

    /// As it was signed.
    public var der: [UInt8] {
        var start: UnsafeMutablePointer<UInt8>?
        let count = i2d_X509(pointer, &start)
        defer { CRYPTO_free(start, nil, 0) }
        return [UInt8](UnsafeBufferPointer(start: start, count: Int(max(0, count))))
    }

    /// In PEM form, with the end of the last line.
    public var pem: [UInt8] { MemoryBIO.writing { PEM_write_bio_X509($0, pointer) == 1 } ?? [] }

    /// The SPIFFE ID: that of the one URI name.
    public func spiffeID() throws(SVIDError) -> SPIFFEID { try names().spiffeID() }

    /// The DNS names it is for; empty when the names are damaged.
    public var dnsNames: [String] { (try? names().dnsNames) ?? [] }

    /// In text form, for people.
    public var ipAddresses: [String] { ((try? names().ipAddresses) ?? []).map(Self.describe(ipAddress:)) }

    /// Seconds since 1970, UTC.
    public var notBefore: Int64 { Self.unixTime(X509_get0_notBefore(pointer)) }

    /// Seconds since 1970, UTC.
    public var notAfter: Int64 { Self.unixTime(X509_get0_notAfter(pointer)) }

    /// In lower-case hexadecimal.
    public var serialNumber: String {
        guard let serial = X509_get0_serialNumber(pointer) else { return "" }
        let bytes = UnsafeBufferPointer(start: ASN1_STRING_get0_data(serial), count: Int(ASN1_STRING_length(serial)))
        return hexadecimal(bytes)
    }

    /// Identifies the key that signed it, in lower-case hexadecimal (RFC 5280 §4.2.1.1); nil when the certificate does
    /// not say.
    package var authorityKeyIdentifier: String? { X509_get0_authority_key_id(pointer).map(Self.bytes) }

    /// Identifies its own key, in lower-case hexadecimal (RFC 5280 §4.2.1.2); nil when the certificate does not say.
    package var subjectKeyIdentifier: String? { X509_get0_subject_key_id(pointer).map(Self.bytes) }

    private static func bytes(_ text: UnsafePointer<ASN1_OCTET_STRING>) -> String {
        hexadecimal(UnsafeBufferPointer(start: ASN1_STRING_get0_data(text), count: Int(ASN1_STRING_length(text))))
    }

    /// Whether basicConstraints say CA:TRUE.
    public var isCA: Bool { X509_get_extension_flags(pointer) & UInt32(EXFLAG_CA) != 0 }

    /// Whether issuer and subject are the same: a root.
    public var isSelfIssued: Bool { X509_get_extension_flags(pointer) & UInt32(EXFLAG_SI) != 0 }

    /// For people, as RFC 4514 writes names; empty for most workloads.
    public var subject: String { Self.describe(X509_get_subject_name(pointer)) }

    /// For people, as RFC 4514 writes names.
    public var issuer: String { Self.describe(X509_get_issuer_name(pointer)) }

    /// SHA-256 of the DER form, in lower-case hexadecimal.
    public var fingerprint: String {
        var digest = [UInt8](repeating: 0, count: Int(EVP_MAX_MD_SIZE))
        var count: UInt32 = 0
        guard X509_digest(pointer, EVP_sha256(), &digest, &count) == 1 else { return "" }
        return hexadecimal(digest.prefix(Int(count)))
    }

    /// All names; throws if the extension is damaged or there twice.
    func names() throws(SVIDError) -> SubjectAlternativeNames {
        var critical: Int32 = 0
        OpenSSLErrors.clear()
        guard let decoded = X509_get_ext_d2i(pointer, NID_subject_alt_name, &critical, nil) else {
            // -1 is "not there"; anything else is damaged (or -2, there twice).
            guard critical == -1 else {
                throw SVIDError(.malformed, "the certificate's subject alternative names are damaged or there twice")
            }
            return SubjectAlternativeNames()
        }
        let names = OpaquePointer(decoded)
        defer { GENERAL_NAMES_free(names) }
        return SubjectAlternativeNames(reading: names)
    }

    static func unixTime(_ time: UnsafePointer<ASN1_TIME>?) -> Int64 {
        // Without tm's initializer: which module it is in depends on what else a build has loaded.
        withUnsafeTemporaryAllocation(of: tm.self, capacity: 1) { storage in
            guard let time, let parts = storage.baseAddress else { return 0 }
            memset(parts, 0, MemoryLayout<tm>.size)
            // An unreadable time counts as 1970: long expired, so never trusted. verify() says so before it gets here.
            return ASN1_TIME_to_tm(time, parts) == 1 ? Int64(timegm(parts)) : 0
        }
    }

    private static func describe(_ name: OpaquePointer?) -> String {
        guard let name else { return "" }
        let text = MemoryBIO.writing { X509_NAME_print_ex($0, name, 0, copenssl_XN_FLAG_RFC2253()) >= 0 } ?? []
        return String(decoding: text, as: UTF8.self)
    }

    private static func describe(ipAddress bytes: [UInt8]) -> String {
        guard bytes.count == 4 || bytes.count == 16 else { return hexadecimal(bytes) }
        var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        guard inet_ntop(bytes.count == 4 ? AF_INET : AF_INET6, bytes, &text, socklen_t(text.count)) != nil else {
            return hexadecimal(bytes)
        }
        return String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }
}

extension Certificate: Hashable {
    /// Equal means the same DER bytes.
    public static func == (left: Certificate, right: Certificate) -> Bool { X509_cmp(left.pointer, right.pointer) == 0 }

    public func hash(into hasher: inout Hasher) { hasher.combine(fingerprint) }
}
