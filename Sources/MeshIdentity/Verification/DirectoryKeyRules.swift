import COpenSSL
import Platform

// Whose word a mesh's directory is: the key that the CA made for that, and for nothing else.
extension TrustBundle {
    /// Whether `certificate` is that of the key that signs this trust domain's directory.
    ///
    /// A root has signed it directly, for the reserved identity `ns/bootstrap/sa/directory`, and for signing data: no
    /// workload's certificate is for that, and this one is no workload's.
    ///
    /// - Parameters:
    ///   - certificate: What came with the signature.
    ///   - now: Seconds since 1970; nil is the clock.
    /// - Throws: ``IdentityError`` with `refused` and the reason.
    package func verify(directoryKey certificate: Certificate, at now: Int64? = nil) throws(IdentityError) {
        do throws(SVIDError) {
            try check(directoryKey: certificate, at: now ?? WallClock.system.seconds)
        } catch {
            throw IdentityError(.refused, error.message)
        }
    }

    private func check(directoryKey certificate: Certificate, at now: Int64) throws(SVIDError) {
        let pointer = certificate.pointer
        let flags = X509_get_extension_flags(pointer)
        let bad = UInt32(EXFLAG_INVALID) | UInt32(EXFLAG_CRITICAL) | UInt32(EXFLAG_CA)
        guard flags & bad == 0, X509_get_version(pointer) == 2 else {
            throw SVIDError(.malformed, "the certificate of the directory's key is malformed, or a CA's")
        }
        let id = try certificate.spiffeID()
        guard id.trustDomain == trustDomain else {
            throw SVIDError(
                .unknownTrustDomain,
                "the directory's key is of the mesh \(id.trustDomain), and this is \(trustDomain)"
            )
        }
        guard id.description == ReservedIdentity.directory(of: trustDomain) else {
            throw SVIDError(.wrongID, "\(id) does not speak for the directory of \(trustDomain)")
        }
        let extended = X509_get_extended_key_usage(pointer)
        guard flags & UInt32(EXFLAG_XKUSAGE) != 0, extended & UInt32(XKU_CODE_SIGN) != 0,
            extended & UInt32(XKU_SSL_SERVER | XKU_SSL_CLIENT | XKU_ANYEKU) == 0
        else { throw SVIDError(.extendedKeyUsage, "the certificate of \(id) is not for signing a directory") }
        guard flags & UInt32(EXFLAG_KUSAGE) != 0,
            X509_get_key_usage(pointer) & UInt32(KU_DIGITAL_SIGNATURE) != 0,
            X509_get_key_usage(pointer) & UInt32(KU_KEY_CERT_SIGN | KU_CRL_SIGN) == 0
        else { throw SVIDError(.keyUsage, "the certificate of \(id) is not for signing data") }
        if let weakness = PublicKeyRules.weakness(of: X509_get0_pubkey(pointer)) {
            throw SVIDError(.weakKey, "the key in the certificate of \(id) \(weakness)")
        }
        try SVIDRules.checkValidity(of: certificate, name: "the certificate of \(id)", at: now)
        guard roots.contains(where: { certificate.isSigned(byKeyOf: $0) }) else {
            throw SVIDError(.untrusted, "the certificate of \(id) is not signed by a root that is trusted here")
        }
        guard !revocations.contain(certificate.name) else {
            throw SVIDError(.revoked, "the certificate of \(id) (serial \(certificate.serialNumber)) was revoked")
        }
    }
}
