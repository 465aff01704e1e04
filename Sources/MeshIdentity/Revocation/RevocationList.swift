import COpenSSL
import Glibc
import Platform

/// A certificate revocation list (RFC 5280 §5): what a CA signed and no longer stands by.
///
/// Holding one says nothing: ``TrustBundle`` takes only those that one of its roots has signed.
// Sendable: the X509_CRL is reference counted atomically and never changed after init; what OpenSSL caches in it lazily
// is filled under the object's own lock.
public final class RevocationList: @unchecked Sendable {
    private let pointer: OpaquePointer
    /// Lists longer than this in PEM form are neither written nor read: some 300,000 certificates that were revoked and
    /// have not ended.
    package static let maximumLength = 16 << 20

    /// Identifies the key that signed it, in lower-case hexadecimal; nil when the list does not say.
    public let issuer: String?
    /// Of the list: a later one has a higher number. Hexadecimal, in lower case and without leading zeros.
    public let number: String
    /// When it was made, in seconds since 1970.
    public let lastUpdate: Int64
    /// When a later one is to be expected, in seconds since 1970; nil when the list does not say.
    public let nextUpdate: Int64?
    /// The numbers of the revoked certificates, in lower-case hexadecimal.
    public let serials: Set<String>

    /// Takes over one reference.
    init(owning pointer: OpaquePointer) {
        self.pointer = pointer
        issuer = Self.identifier(pointer)
        number = Self.number(pointer)
        lastUpdate = X509_CRL_get0_lastUpdate(pointer).map(Certificate.unixTime) ?? 0
        nextUpdate = X509_CRL_get0_nextUpdate(pointer).map(Certificate.unixTime)
        var serials: Set<String> = []
        Self.forEachEntry(of: pointer) { serial, _ in serials.insert(Self.hexadecimal(serial)) }
        self.serials = serials
    }

    /// The certificates with the time of their revocation.
    package var entries: [RevokedCertificate] {
        var entries: [RevokedCertificate] = []
        Self.forEachEntry(of: pointer) { serial, entry in
            let time = X509_REVOKED_get0_revocationDate(entry).map(Certificate.unixTime) ?? lastUpdate
            var certificate = RevokedCertificate(serial: Self.hexadecimal(serial), revokedAt: time)
            certificate.reason = Self.reason(entry)
            entries.append(certificate)
        }
        return entries
    }

    private static func forEachEntry(
        of pointer: OpaquePointer,
        _ body: (UnsafePointer<ASN1_INTEGER>, OpaquePointer) -> Void
    ) {
        let entries = X509_CRL_get_REVOKED(pointer)
        for index in 0..<max(0, copenssl_sk_X509_REVOKED_num(entries)) {
            guard let entry = copenssl_sk_X509_REVOKED_value(entries, index),
                let serial = X509_REVOKED_get0_serialNumber(entry)
            else { continue }
            body(serial, entry)
        }
    }

    private static func reason(_ entry: OpaquePointer) -> RevocationReason? {
        guard let decoded = X509_REVOKED_get_ext_d2i(entry, NID_crl_reason, nil, nil) else { return nil }
        let value = decoded.assumingMemoryBound(to: ASN1_ENUMERATED.self)
        defer { ASN1_ENUMERATED_free(value) }
        return RevocationReason(rawValue: ASN1_ENUMERATED_get(value))
    }

    deinit { X509_CRL_free(pointer) }

    /// - Parameter der: One list, and nothing behind it.
    /// - Throws: `invalidCertificate`.
    package convenience init(der: [UInt8]) throws(IdentityError) {
        OpenSSLErrors.clear()
        let parsed = der.withUnsafeBufferPointer { buffer -> OpaquePointer? in
            var start = buffer.baseAddress
            guard let pointer = d2i_X509_CRL(nil, &start, buffer.count) else { return nil }
            guard start == buffer.baseAddress.map({ $0 + buffer.count }) else {
                X509_CRL_free(pointer)
                return nil
            }
            return pointer
        }
        guard let parsed else {
            throw IdentityError(
                .invalidCertificate,
                "this is no revocation list in DER form (\(OpenSSLErrors.drain()))"
            )
        }
        self.init(owning: parsed)
    }

    /// All lists of a PEM text in its order; a damaged one is an error.
    public static func all(pem: [UInt8]) throws(IdentityError) -> [RevocationList] {
        OpenSSLErrors.clear()
        let (lists, isDamaged) = MemoryBIO.reading(pem) { bio in
            var lists: [RevocationList] = []
            while let pointer = PEM_read_bio_X509_CRL(bio, nil, nil, nil) {
                lists.append(RevocationList(owning: pointer))
            }
            let last = ERR_peek_last_error()
            return (lists, !(ERR_GET_LIB(last) == ERR_LIB_PEM && ERR_GET_REASON(last) == PEM_R_NO_START_LINE))
        }
        let reason = OpenSSLErrors.drain()
        guard !isDamaged else {
            throw IdentityError(
                .invalidCertificate,
                "revocation list \(lists.count + 1) of the PEM text is damaged (\(reason))"
            )
        }
        guard !lists.isEmpty else {
            throw IdentityError(.invalidCertificate, "there is no revocation list in PEM form here")
        }
        return lists
    }

    /// In PEM form; empty when OpenSSL has no memory.
    public var pem: [UInt8] { MemoryBIO.writing { PEM_write_bio_X509_CRL($0, pointer) == 1 } ?? [] }

    /// Whether `root` has signed it.
    package func isSigned(by root: Certificate) -> Bool {
        OpenSSLErrors.clear()
        defer { OpenSSLErrors.clear() }
        guard X509_NAME_cmp(X509_CRL_get_issuer(pointer), X509_get_subject_name(root.pointer)) == 0,
            let key = X509_get0_pubkey(root.pointer)
        else { return false }
        return X509_CRL_verify(pointer, key) == 1
    }

    /// Whether this list is of a later time than `other`, of the same issuer.
    public func isNewer(than other: RevocationList) -> Bool {
        number.count != other.number.count ? number.count > other.number.count : number > other.number
    }

    private static func identifier(_ pointer: OpaquePointer) -> String? {
        guard let decoded = X509_CRL_get_ext_d2i(pointer, NID_authority_key_identifier, nil, nil) else { return nil }
        let identifier = decoded.assumingMemoryBound(to: AUTHORITY_KEYID.self)
        defer { AUTHORITY_KEYID_free(identifier) }
        guard let key = identifier.pointee.keyid else { return nil }
        return MeshIdentity.hexadecimal(
            UnsafeBufferPointer(start: ASN1_STRING_get0_data(key), count: Int(ASN1_STRING_length(key)))
        )
    }

    private static func number(_ pointer: OpaquePointer) -> String {
        guard let decoded = X509_CRL_get_ext_d2i(pointer, NID_crl_number, nil, nil) else { return "0" }
        let number = decoded.assumingMemoryBound(to: ASN1_INTEGER.self)
        defer { ASN1_INTEGER_free(number) }
        let text = hexadecimal(number).drop { $0 == "0" }
        return text.isEmpty ? "0" : String(text)
    }

    private static func hexadecimal(_ number: UnsafePointer<ASN1_INTEGER>) -> String {
        MeshIdentity.hexadecimal(
            UnsafeBufferPointer(start: ASN1_STRING_get0_data(number), count: Int(ASN1_STRING_length(number)))
        )
    }
}

/// A certificate on a revocation list.
public struct RevokedCertificate: Hashable, Sendable {
    /// Lower-case hexadecimal.
    public var serial: String
    /// Seconds since 1970.
    public var revokedAt: Int64
    /// nil: the list does not say, or names another one.
    package var reason: RevocationReason?

    /// - Parameters:
    ///   - serial: In lower-case hexadecimal.
    ///   - revokedAt: Seconds since 1970.
    public init(serial: String, revokedAt: Int64) {
        self.serial = serial
        self.revokedAt = revokedAt
    }
}

/// Why a certificate is on a list, as far as it matters to whoever reads it later (RFC 5280 §5.3.1).
package enum RevocationReason: Int, Hashable, Sendable {
    /// Its owner has another one, and is trusted: only this certificate is to be refused.
    case superseded = 4
    /// Its owner is not trusted any more.
    case privilegeWithdrawn = 9
}
