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
