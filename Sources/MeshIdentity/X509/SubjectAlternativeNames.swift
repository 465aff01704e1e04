import COpenSSL
import Glibc

/// The names of a certificate, or those that a request asks for (RFC 5280 §4.2.1.6).
struct SubjectAlternativeNames: Equatable {
    /// URIs as the bytes that are there: whoever made the certificate decides what they are.
    var uris: [[UInt8]] = []
    var dnsNames: [String] = []
    /// 4 or 16 bytes each.
    var ipAddresses: [[UInt8]] = []

    init() {}

    /// Reads `GENERAL_NAMES`, borrowed.
    init(reading names: OpaquePointer) {
        for index in 0..<copenssl_sk_GENERAL_NAME_num(names) {
            guard let name = copenssl_sk_GENERAL_NAME_value(names, index) else { continue }
            var type: Int32 = 0
            guard let value = GENERAL_NAME_get0_value(name, &type) else { continue }
            guard [GEN_URI, GEN_DNS, GEN_IPADD].contains(type) else { continue }
            let string = value.assumingMemoryBound(to: ASN1_STRING.self)
            let start = ASN1_STRING_get0_data(string)
            let bytes = [UInt8](UnsafeBufferPointer(start: start, count: Int(ASN1_STRING_length(string))))
            switch type {
            case GEN_URI: uris.append(bytes)
            case GEN_DNS: dnsNames.append(String(decoding: bytes, as: UTF8.self))
            default: ipAddresses.append(bytes)
            }
        }
    }

    /// The extension, owned by the caller; nil if OpenSSL has no memory.
    func makeExtension(isCritical: Bool) -> OpaquePointer? {
        guard let names = copenssl_sk_GENERAL_NAME_new() else { return nil }
        defer { GENERAL_NAMES_free(names) }
        for (type, bytes) in uris.map({ (GEN_URI, $0) }) + dnsNames.map({ (GEN_DNS, Array($0.utf8)) })
            + ipAddresses.map({ (GEN_IPADD, $0) })
        {
            guard let name = GENERAL_NAME_new() else { return nil }
            guard let string = type == GEN_IPADD ? ASN1_OCTET_STRING_new() : ASN1_IA5STRING_new() else {
                GENERAL_NAME_free(name)
                return nil
            }
            ASN1_STRING_set(string, bytes, Int32(bytes.count))
            GENERAL_NAME_set0_value(name, type, string)
            guard copenssl_sk_GENERAL_NAME_push(names, name) > 0 else {
                GENERAL_NAME_free(name)
                return nil
            }
        }
        return X509V3_EXT_i2d(NID_subject_alt_name, isCritical ? 1 : 0, UnsafeMutableRawPointer(names))
    }

    /// The one SPIFFE ID among them (X509-SVID specification, §2: exactly one URI).
    func spiffeID() throws(SVIDError) -> SPIFFEID {
        guard let uri = uris.first else {
            throw SVIDError(.noURIName, "the certificate has no URI name, so it carries no SPIFFE ID")
        }
        guard uris.count == 1 else {
            throw SVIDError(
                .multipleURINames,
                "the certificate has \(uris.count) URI names; a SPIFFE certificate has exactly one"
            )
        }
        do {
            return try SPIFFEID(bytes: uri)
        } catch {
            throw SVIDError(.invalidID, "the certificate's URI name is no SPIFFE ID: \(error.message)")
        }
    }

    /// An IP address as a certificate carries it; nil if the text is none.
    static func bytes(ofIPAddress text: String) -> [UInt8]? {
        for (family, count) in [(AF_INET, 4), (AF_INET6, 16)] {
            var bytes = [UInt8](repeating: 0, count: count)
            if inet_pton(family, text, &bytes) == 1 { return bytes }
        }
        return nil
    }
}
