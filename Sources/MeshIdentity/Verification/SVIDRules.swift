import COpenSSL
import Glibc
import Platform

/// The rules that an X.509-SVID keeps, apart from who signed it. What we issue is held to them as well as what we
/// accept.
enum SVIDRules {
    /// Checks a leaf certificate and returns its SPIFFE ID.
    ///
    /// - Parameter now: seconds since 1970.
    static func check(leaf: Certificate, at now: Int64) throws(SVIDError) -> SPIFFEID {
        let pointer = leaf.pointer
        let flags = X509_get_extension_flags(pointer)
        guard flags & UInt32(EXFLAG_INVALID) == 0, X509_get_version(pointer) == 2 else {
            throw SVIDError(.malformed, "the certificate is not a well-formed X.509 version 3 certificate")
        }
        let id = try leaf.spiffeID()
        guard !id.path.isEmpty else {
            throw SVIDError(.noPath, "\(id) names a trust domain, not a workload: a leaf's SPIFFE ID has a path")
        }
        guard flags & UInt32(EXFLAG_CA) == 0 else {
            throw SVIDError(.isCA, "the certificate of \(id) is a CA certificate (CA:TRUE); a workload's must not be")
        }
        guard flags & UInt32(EXFLAG_CRITICAL) == 0 else {
            throw SVIDError(.malformed, "the certificate of \(id) has a critical extension that is not understood")
        }
        try checkUsages(pointer, flags: flags, id: id)
        if let weakness = PublicKeyRules.weakness(of: X509_get0_pubkey(pointer)) {
            throw SVIDError(.weakKey, "the key in the certificate of \(id) \(weakness)")
        }
        try checkValidity(of: leaf, name: "the certificate of \(id)", at: now)
        return id
    }

    private static func checkUsages(_ pointer: OpaquePointer, flags: UInt32, id: SPIFFEID) throws(SVIDError) {
        guard flags & UInt32(EXFLAG_KUSAGE) != 0 else {
            throw SVIDError(
                .keyUsage,
                "the certificate of \(id) has no key usage; it needs a critical digitalSignature"
            )
        }
        let usage = X509_get_key_usage(pointer)
        guard usage & UInt32(KU_DIGITAL_SIGNATURE) != 0 else {
            throw SVIDError(.keyUsage, "the key usage of the certificate of \(id) lacks digitalSignature")
        }
        guard usage & UInt32(KU_KEY_CERT_SIGN | KU_CRL_SIGN) == 0 else {
            throw SVIDError(.keyUsage, "the key usage of the certificate of \(id) allows signing certificates or CRLs")
        }
        let index = X509_get_ext_by_NID(pointer, NID_key_usage, -1)
        guard let found = X509_get_ext(pointer, index), X509_EXTENSION_get_critical(found) == 1 else {
            throw SVIDError(.keyUsage, "the key usage of the certificate of \(id) is not critical")
        }
        guard flags & UInt32(EXFLAG_XKUSAGE) != 0 else {
            throw SVIDError(
                .extendedKeyUsage,
                "the certificate of \(id) has no extended key usage; it needs serverAuth and clientAuth"
            )
        }
        let extended = X509_get_extended_key_usage(pointer)
        for (bit, name) in [(XKU_SSL_SERVER, "serverAuth"), (XKU_SSL_CLIENT, "clientAuth")]
        where extended & UInt32(bit) == 0 {
            throw SVIDError(.extendedKeyUsage, "the extended key usage of the certificate of \(id) lacks \(name)")
        }
    }

    /// Says by how much: a clock that is off shows itself by it.
    static func checkValidity(of certificate: Certificate, name: String, at now: Int64) throws(SVIDError) {
        let (notBefore, notAfter) = (certificate.notBefore, certificate.notAfter)
        // By RFC 5280 §4.1.2.5 the second notAfter still counts; by OpenSSL, and so for every peer that uses it, no
        // more.
        if now >= notAfter {
            throw SVIDError(
                .expired,
                "\(name) expired \(describe(seconds: now - notAfter)) ago (\(describe(time: notAfter))); "
                    + "renew it, or set the clock if it is not \(describe(time: now))"
            )
        }
        if now < notBefore {
            throw SVIDError(
                .notYetValid,
                "\(name) is not valid before \(describe(time: notBefore)), in \(describe(seconds: notBefore - now)); "
                    + "set the clock that is wrong: here it is \(describe(time: now))"
            )
        }
    }
}
