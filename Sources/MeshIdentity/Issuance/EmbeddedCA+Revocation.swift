import COpenSSL
import Glibc
import Platform
import Synchronization

extension EmbeddedCA {
    /// A signed list of what this CA revoked.
    ///
    /// - Parameters:
    ///   - revoked: Certificates that this CA's key has signed.
    ///   - number: Of the list: higher than that of any list before.
    ///   - nextUpdate: Seconds since 1970.
    ///   - now: Seconds since 1970.
    public func revocationList(
        of revoked: [RevokedCertificate],
        number: Int64,
        nextUpdate: Int64,
        at now: Int64? = nil
    ) throws(IdentityError) -> RevocationList {
        OpenSSLErrors.clear()
        guard let pointer = X509_CRL_new() else { throw OpenSSLErrors.failure("make a revocation list") }
        var isComplete = false
        defer { if !isComplete { X509_CRL_free(pointer) } }
        guard X509_CRL_set_version(pointer, 1) == 1,
            X509_CRL_set_issuer_name(pointer, X509_get_subject_name(certificate.pointer)) == 1
        else { throw OpenSSLErrors.failure("fill in a revocation list") }
        // Set back as certificates are: clocks of devices differ.
        let backdating = IssuanceOptions.defaultBackdating.components.seconds
        try setTime((now ?? WallClock.system.seconds) - backdating) { X509_CRL_set1_lastUpdate(pointer, $0) }
        try setTime(nextUpdate) { X509_CRL_set1_nextUpdate(pointer, $0) }
        for entry in revoked { try add(entry, to: pointer) }
        X509_CRL_sort(pointer)
        try addExtensions(to: pointer, number: number)
        guard X509_CRL_sign(pointer, key.pointer, SignatureDigest.of(key.pointer)) > 0 else {
            throw OpenSSLErrors.failure("sign a revocation list")
        }
        isComplete = true
        return RevocationList(owning: pointer)
    }

    private func setTime(
        _ seconds: Int64,
        _ set: (UnsafePointer<ASN1_TIME>) -> Int32
    ) throws(IdentityError) {
        guard let time = ASN1_TIME_set(nil, time_t(seconds)) else { throw OpenSSLErrors.failure("set a time") }
        defer { ASN1_TIME_free(time) }
        guard set(time) == 1 else { throw OpenSSLErrors.failure("set a time") }
    }

    private func add(_ entry: RevokedCertificate, to pointer: OpaquePointer) throws(IdentityError) {
        var number: OpaquePointer?
        // BN_hex2bn returns how many digits it has understood.
        guard !entry.serial.isEmpty, Int(BN_hex2bn(&number, entry.serial)) == entry.serial.utf8.count, let number else {
            throw IdentityError(.refused, "'\(entry.serial)' is no serial number in hexadecimal")
        }
        defer { BN_free(number) }
        guard let revoked = X509_REVOKED_new(), let serial = BN_to_ASN1_INTEGER(number, nil) else {
            throw OpenSSLErrors.failure("list a certificate")
        }
        defer { ASN1_INTEGER_free(serial) }
        var isAdded = false
        defer { if !isAdded { X509_REVOKED_free(revoked) } }
        guard X509_REVOKED_set_serialNumber(revoked, serial) == 1 else {
            throw OpenSSLErrors.failure("list a certificate")
        }
        try setTime(entry.revokedAt) { X509_REVOKED_set_revocationDate(revoked, UnsafeMutablePointer(mutating: $0)) }
        if let reason = entry.reason { try say(reason, of: revoked) }
        guard X509_CRL_add0_revoked(pointer, revoked) == 1 else { throw OpenSSLErrors.failure("list a certificate") }
        isAdded = true
    }

    private func say(_ reason: RevocationReason, of revoked: OpaquePointer) throws(IdentityError) {
        guard let value = ASN1_ENUMERATED_new() else { throw OpenSSLErrors.failure("say why a certificate is listed") }
        defer { ASN1_ENUMERATED_free(value) }
        guard ASN1_ENUMERATED_set(value, reason.rawValue) == 1,
            X509_REVOKED_add1_ext_i2d(revoked, NID_crl_reason, value, 0, 0) == 1
        else { throw OpenSSLErrors.failure("say why a certificate is listed") }
    }

    private func addExtensions(to pointer: OpaquePointer, number: Int64) throws(IdentityError) {
        guard let value = ASN1_INTEGER_new() else { throw OpenSSLErrors.failure("number a revocation list") }
        defer { ASN1_INTEGER_free(value) }
        guard ASN1_INTEGER_set_int64(value, number) == 1,
            X509_CRL_add1_ext_i2d(pointer, NID_crl_number, value, 0, 0) == 1
        else { throw OpenSSLErrors.failure("number a revocation list") }
        var context = X509V3_CTX()
        X509V3_set_ctx(&context, certificate.pointer, nil, nil, pointer, 0)
        guard let identifier = X509V3_EXT_nconf_nid(nil, &context, NID_authority_key_identifier, "keyid:always") else {
            throw OpenSSLErrors.failure("name the key of a revocation list")
        }
        defer { X509_EXTENSION_free(identifier) }
        guard X509_CRL_add_ext(pointer, identifier, -1) == 1 else {
            throw OpenSSLErrors.failure("name the key of a revocation list")
        }
    }
}

/// The revocation lists that were good the last time: not every certificate that goes out with them costs their
/// signatures once more.
final class GoodLists: Sendable {
    /// A process has one CA.
    static let lastOnes = GoodLists()

    private let last = Mutex<(pem: [UInt8], roots: [Certificate])>(([], []))

    /// Whether holders of `roots` take these lists.
    func contain(_ pem: [UInt8], of roots: [Certificate]) -> Bool {
        if last.withLock({ $0.pem == pem && $0.roots == roots }) { return true }
        guard (try? Revocations(pem: pem, roots: roots)) != nil else { return false }
        last.withLock { $0 = (pem, roots) }
        return true
    }
}
