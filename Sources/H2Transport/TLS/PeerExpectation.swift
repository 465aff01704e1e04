internal import COpenSSL
public import MeshIdentity

/// Whom this side is willing to talk to, checked in the handshake after the certificate itself has been verified.
public struct PeerExpectation: Hashable, Sendable, CustomStringConvertible {
    private enum Kind: Hashable {
        case identities([SPIFFEID])
        case namespace(TrustDomain, String)
        case trustDomain(TrustDomain)
        case anyTrusted
    }

    private let kind: Kind

    /// One of these, exactly. An empty list refuses everybody.
    public static func identities(_ ids: [SPIFFEID]) -> PeerExpectation { PeerExpectation(kind: .identities(ids)) }

    /// Any workload of this trust domain and namespace: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/…`.
    public static func namespace(_ namespace: String, in trustDomain: TrustDomain) -> PeerExpectation {
        PeerExpectation(kind: .namespace(trustDomain, namespace))
    }

    /// Any workload of this trust domain.
    public static func trustDomain(_ trustDomain: TrustDomain) -> PeerExpectation {
        PeerExpectation(kind: .trustDomain(trustDomain))
    }

    /// Anybody whom a configured trust bundle vouches for: for servers, whose policy decides for each request.
    public static let anyTrusted = PeerExpectation(kind: .anyTrusted)

    /// Throws `wrongID`, with the expected and the actual identity, when `id` is somebody else.
    public func check(_ id: SPIFFEID) throws(SVIDError) {
        let isExpected =
            switch kind {
            case .identities(let ids): ids.contains(id)
            case .namespace(let trustDomain, let namespace): id.trustDomain == trustDomain && id.namespace == namespace
            case .trustDomain(let trustDomain): id.trustDomain == trustDomain
            case .anyTrusted: true
            }
        guard isExpected else { throw SVIDError(.wrongID, "the peer is \(id), expected was \(self)") }
    }

    public var description: String {
        switch kind {
        case .identities(let ids) where ids.isEmpty: "nobody"
        case .identities(let ids): ids.map(\.description).joined(separator: " or ")
        case .namespace(let trustDomain, let namespace): "spiffe://\(trustDomain)/ns/\(namespace)/sa/*"
        case .trustDomain(let trustDomain): "spiffe://\(trustDomain)/*"
        case .anyTrusted: "any trusted identity"
        }
    }
}

/// What a handshake has established about the other side.
public struct TLSPeer: Hashable, Sendable {
    /// Proven by certificate and signature; nil for a server that was verified by its name, and is no member of a mesh.
    public let identity: SPIFFEID?
    /// What ALPN chose; nil when the peer did not take part in it.
    public let applicationProtocol: String?
    /// The name in RFC 8446, `TLS_AES_128_GCM_SHA256`.
    public let cipher: String
    /// When the peer's certificate expires, in seconds since 1970. A connection should not outlive it for long.
    public let notAfter: Int64
    /// Which certificate it was: so that a connection ends when that is revoked.
    public let certificate: CertificateName
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
