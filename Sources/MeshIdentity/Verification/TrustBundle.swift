import COpenSSL
import Platform

/// The roots of one trust domain: who may vouch for identities in it.
///
/// Several roots overlap while a CA is rotated. Roots of two trust domains are never in one bundle: a CA can then vouch
/// for its own domain only.
public struct TrustBundle: Sendable {
    /// The domain that the roots vouch for.
    public let trustDomain: TrustDomain
    /// At least one, without duplicates.
    public let roots: [Certificate]
    /// What these roots no longer stand by.
    package private(set) var revocations: Revocations
    private let store: RootStore

    /// Fails if a root is no CA, or carries the SPIFFE ID of another trust domain, or a revocation list says it is of a
    /// root that has not signed it.
    ///
    /// - Parameters:
    ///   - trustDomain: The domain that the roots vouch for.
    ///   - roots: At least one.
    ///   - revocationLists: In PEM form; nil where there is none.
    public init(
        trustDomain: TrustDomain,
        roots: [Certificate],
        revocationLists: [UInt8]? = nil
    ) throws(IdentityError) {
        guard !roots.isEmpty else {
            throw IdentityError(.invalidCertificate, "there is no root certificate for the trust domain \(trustDomain)")
        }
        var unique: [Certificate] = []
        for root in roots where !unique.contains(root) {
            guard root.isCA else {
                throw IdentityError(
                    .invalidCertificate,
                    "the certificate \"\(root.subject)\" is no CA certificate, so it cannot be a root of \(trustDomain)"
                )
            }
            if let stranger = Self.foreignTrustDomain(of: root, in: trustDomain) {
                throw IdentityError(
                    .invalidCertificate,
                    "the root certificate \"\(root.subject)\" is bound to \(stranger), so it cannot be a root of \(trustDomain)"
                )
            }
            unique.append(root)
        }
        self.trustDomain = trustDomain
        self.roots = unique
        store = try RootStore(unique)
        revocations = if let revocationLists { try Revocations(pem: revocationLists, roots: unique) } else { .none }
    }

    /// Verifies that a certificate proves a SPIFFE ID of this trust domain, and returns the ID.
    ///
    /// - Parameters:
    ///   - leaf: what the peer proved to have the key of (TLS does that).
    ///   - intermediates: what the peer sent with it, in any order; trusted in nothing.
    ///   - now: seconds since 1970; nil is the clock.
    public func verify(
        leaf: Certificate,
        intermediates: [Certificate] = [],
        at now: Int64? = nil
    ) throws(SVIDError) -> SPIFFEID {
        let now = now ?? WallClock.system.seconds
        let id = try SVIDRules.check(leaf: leaf, at: now)
        guard id.trustDomain == trustDomain else {
            throw SVIDError(
                .unknownTrustDomain,
                "\(id) is of the trust domain \(id.trustDomain), which is not trusted here; only \(trustDomain) is"
            )
        }
        try ChainVerifier(id: id, now: now).verify(leaf: leaf, intermediates: intermediates, store: store)
        for certificate in [leaf] + intermediates where revocations.contain(certificate.name) {
            throw SVIDError(
                .revoked,
                "the certificate of \(id) (serial \(certificate.serialNumber)) was revoked; an operator gives it another: "
                    + "`bootstrap renew`, or, where the device itself was revoked and is trusted again, `bootstrap enroll --reinstate`"
            )
        }
        return id
    }

    /// The same roots, which no longer stand by these certificates either.
    package func refusing(_ certificates: some Sequence<CertificateName>) -> TrustBundle {
        var bundle = self
        bundle.revocations = revocations.adding(certificates)
        return bundle
    }

    /// All roots in PEM, as `root-cert.pem` has them.
    public var pem: [UInt8] { roots.flatMap(\.pem) }

    /// What a CA certificate is bound to, if that is not `trustDomain`.
    static func foreignTrustDomain(of certificate: Certificate, in trustDomain: TrustDomain) -> String? {
        guard let names = try? certificate.names() else { return "unreadable names" }
        for uri in names.uris {
            guard uri.starts(with: "spiffe:".utf8) else { continue }
            guard let id = try? SPIFFEID(bytes: uri) else { return "an invalid SPIFFE ID" }
            if id.trustDomain != trustDomain { return "the trust domain \(id.trustDomain)" }
        }
        return nil
    }
}

/// The bundles of all trust domains that are trusted: the peer's own trust domain chooses the one that counts.
public struct TrustBundleSet: Sendable {
    /// One for each trust domain.
    public private(set) var bundles: [TrustDomain: TrustBundle] = [:]

    /// - Parameter bundles: Of two for the same trust domain the latter counts.
    public init(_ bundles: TrustBundle...) {
        for bundle in bundles { insert(bundle) }
    }

    /// Replaces what was there for the bundle's trust domain.
    public mutating func insert(_ bundle: TrustBundle) { bundles[bundle.trustDomain] = bundle }

    /// Why a certificate that was accepted for an identity would be refused now: it was revoked since, or its whole
    /// trust domain is not trusted any more; nil: neither.
    package func objection(to certificate: CertificateName, of id: SPIFFEID) -> String? {
        guard let bundle = bundles[id.trustDomain] else {
            return "the trust domain \(id.trustDomain), of \(id), is not trusted any more"
        }
        guard bundle.revocations.contain(certificate) else { return nil }
        return "the certificate of \(id) (serial \(certificate.serial)) was revoked"
    }

    /// Whether the same trust domains are trusted as in `other`, and the same certificates of them revoked.
    package func hasSameObjections(as other: TrustBundleSet) -> Bool {
        bundles.mapValues(\.revocations) == other.bundles.mapValues(\.revocations)
    }

    /// As `TrustBundle.verify`, with the bundle of the leaf's trust domain.
    public func verify(
        leaf: Certificate,
        intermediates: [Certificate] = [],
        at now: Int64? = nil
    ) throws(SVIDError) -> SPIFFEID {
        let now = now ?? WallClock.system.seconds
        let id = try SVIDRules.check(leaf: leaf, at: now)
        guard let bundle = bundles[id.trustDomain] else {
            let known = bundles.keys.sorted().map(\.name).joined(separator: ", ")
            throw SVIDError(
                .unknownTrustDomain,
                "\(id) is of the trust domain \(id.trustDomain), which is not trusted here; trusted: \(known)"
            )
        }
        return try bundle.verify(leaf: leaf, intermediates: intermediates, at: now)
    }
}
