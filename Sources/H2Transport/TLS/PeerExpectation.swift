internal import COpenSSL
package import MeshIdentity

/// What a handshake has established about the other side.
package struct TLSPeer: Hashable, Sendable {
    /// Proven by certificate and signature; nil for a server that was verified by its name, and is no member of a mesh,
    /// and for a client that has shown no certificate where none is required.
    package let identity: SPIFFEID?
    /// What ALPN chose; nil when the peer did not take part in it.
    package let applicationProtocol: String?
    /// The name in RFC 8446, `TLS_AES_128_GCM_SHA256`.
    package let cipher: String
    /// When the peer's certificate expires, in seconds since 1970; never without one. A connection should not outlive
    /// it for long.
    package let notAfter: Int64
    /// Which certificate it was: so that a connection ends when that is revoked; nil without one.
    package let certificate: CertificateName?
}

/// The peer's certificate on trial: the trust bundles, whom we expect, and what came of it.
struct PeerVerifier {
    let trust: TrustBundleSet
    let expectation: PeerExpectation
    /// Instead of both: a server that is verified by its name.
    let server: ServerVerifier?

    struct Verdict {
        let identity: SPIFFEID?
        let notAfter: Int64
        let certificate: CertificateName
    }

    /// `certificates` has the leaf first, then what the peer sent with it.
    func verify(leaf: Certificate, intermediates: [Certificate]) throws(SVIDError) -> Verdict {
        if let server {
            try server.verify(leaf: leaf, intermediates: intermediates)
            return Verdict(identity: nil, notAfter: leaf.notAfter, certificate: leaf.name)
        }
        let id = try trust.verify(leaf: leaf, intermediates: intermediates)
        try expectation.check(id)
        return Verdict(identity: id, notAfter: leaf.notAfter, certificate: leaf.name)
    }

    /// The X.509 error that makes OpenSSL send the fitting alert (RFC 8446 §6.2).
    static func verificationError(for error: SVIDError) -> Int32 {
        switch error.code {
        // "expired or is not currently valid" is one alert, certificate_expired.
        case .expired, .notYetValid: X509_V_ERR_CERT_HAS_EXPIRED
        // certificate_revoked
        case .revoked: X509_V_ERR_CERT_REVOKED
        // unknown_ca
        case .unknownTrustDomain, .untrusted: X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY
        // unsupported_certificate
        case .keyUsage, .extendedKeyUsage: X509_V_ERR_INVALID_PURPOSE
        // certificate_unknown: a good certificate of somebody else. No X.509 error yields access_denied.
        case .wrongID: X509_V_ERR_PERMITTED_VIOLATION
        // bad_certificate
        default: X509_V_ERR_CERT_REJECTED
        }
    }
}
