/// Whoever signs certificates: the embedded CA, a program, or a service.
///
/// The issuer is told the identity; what the request itself asks for is a wish and never decides.
public protocol CertificateIssuer: Sendable {
    /// Signs a certificate for the key of `request` that carries `id`.
    ///
    /// Whoever implements this checks the request's signature, and that the outcome keeps the rules
    /// (`IssuedCertificate.verify`).
    func issue(
        _ request: CertificateRequest,
        id: SPIFFEID,
        options: IssuanceOptions
    ) async throws(IdentityError) -> IssuedCertificate
}

/// What a certificate is to have besides its identity.
public struct IssuanceOptions: Hashable, Sendable {
    /// How long the certificate is valid from now on. The shorter, the less a stolen key is worth.
    public var lifetime: Duration
    /// How far back from now NotBefore is set. Clocks differ: the certificate is to be valid at once by that of the
    /// device, too.
    public var backdating: Duration
    /// DNS names for clients that know no SPIFFE IDs (browsers, curl).
    public var dnsNames: [String]
    /// IP addresses in text form, for the same clients.
    public var ipAddresses: [String]
    /// Whether the identity may be a reserved one (``SPIFFEID/reservation``): for the operator and the mesh's own
    /// services.
    package var allowsReservedIdentity = false

    /// 24 hours: long enough to survive a night without the CA, as Istio's.
    public static let defaultLifetime = Duration.seconds(24 * 60 * 60)

    /// Two minutes.
    public static let defaultBackdating = Duration.seconds(120)

    /// - Parameters:
    ///   - lifetime: At least a second, and no longer than the CA's own certificate.
    ///   - backdating: Zero or more.
    ///   - dnsNames: Names for clients that know no SPIFFE IDs.
    ///   - ipAddresses: In text form, for the same clients.
    public init(
        lifetime: Duration = IssuanceOptions.defaultLifetime,
        backdating: Duration = IssuanceOptions.defaultBackdating,
        dnsNames: [String] = [],
        ipAddresses: [String] = []
    ) {
        self.lifetime = lifetime
        self.backdating = backdating
        self.dnsNames = dnsNames
        self.ipAddresses = ipAddresses
    }
}

extension IssuanceOptions {
    /// - Throws: ``IdentityError`` with `refused` for a reserved identity, unless these options are for one.
    package func check(_ id: SPIFFEID) throws(IdentityError) {
        guard !allowsReservedIdentity, let reservation = id.reservation else { return }
        throw IdentityError(.refused, reservation)
    }
}

/// What an issuer answers with.
public struct IssuedCertificate: Sendable {
    /// The leaf first, then the CA certificates between it and a root, if any.
    public let chain: [Certificate]
    /// The roots that the identity's trust domain is verified with now; more than one while a root is replaced.
    public let roots: [Certificate]
    /// What those no longer stand by, in PEM form; nil where the issuer does not say.
    public var revocationLists: [UInt8]?
    /// Where roots are new: certificates for their keys, signed by the roots before them.
    package var vouchers: [Certificate] = []

    /// Nothing is verified; see ``verify(for:id:at:)``.
    ///
    /// - Parameters:
    ///   - chain: The leaf first.
    ///   - roots: Of the identity's trust domain.
    ///   - revocationLists: In PEM form; nil where the issuer does not say.
    public init(chain: [Certificate], roots: [Certificate], revocationLists: [UInt8]? = nil) {
        self.chain = chain
        self.roots = roots
        self.revocationLists = revocationLists
    }

    /// What somebody else's CA has answered: the leaf first, then the CA certificates, of which those that are their
    /// own issuers are roots.
    ///
    /// - Parameters:
    ///   - answer: In the order in which they came.
    ///   - roots: Those of the trust domain where they are known otherwise; then nothing in the answer is one.
    ///   - name: The issuer's, for errors.
    ///   - request: What the leaf must have been made for.
    ///   - id: What the leaf must say.
    /// - Throws: ``IdentityError`` unless it keeps every rule (``verify(for:id:at:)``).
    package init(
        answer: [Certificate],
        roots known: [Certificate] = [],
        of name: String,
        for request: CertificateRequest,
        id: SPIFFEID
    ) throws(IdentityError) {
        guard !answer.isEmpty else { throw IdentityError(.issuer, "\(name) answered with no certificate") }
        let roots = answer.dropFirst().filter { $0.isCA && $0.isSelfIssued }
        self.init(chain: answer.filter { !roots.contains($0) }, roots: known.isEmpty ? roots : known)
        guard !self.roots.isEmpty else {
            throw IdentityError(
                .issuer,
                "\(name) gave no root certificate after the chain, and none is configured for it"
            )
        }
        do throws(IdentityError) {
            try verify(for: request, id: id)
        } catch {
            throw IdentityError(error.code, "\(name): \(error.message)")
        }
    }

    /// The certificate that was asked for; nil when the chain is empty.
    public var leaf: Certificate? { chain.first }

    /// Checks that this is a certificate for the request's key and the identity that was asked for, keeps every rule,
    /// and that its own roots vouch for it.
    ///
    /// - Parameter request: What the leaf must have been made for.
    /// - Parameter id: What the leaf must say.
    /// - Parameter now: seconds since 1970; nil is the clock.
    public func verify(
        for request: CertificateRequest,
        id: SPIFFEID,
        at now: Int64? = nil
    ) throws(IdentityError) {
        guard let leaf else { throw IdentityError(.invalidCertificate, "the issuer answered without a certificate") }
        guard request.matches(leaf) else {
            throw IdentityError(
                .keyMismatch,
                "the issuer's certificate for \(id) is for another key than was asked for"
            )
        }
        let bundle = try TrustBundle(trustDomain: id.trustDomain, roots: roots)
        do throws(SVIDError) {
            let found = try bundle.verify(leaf: leaf, intermediates: Array(chain.dropFirst()), at: now)
            guard found == id else {
                throw SVIDError(.wrongID, "the issuer's certificate is for \(found), not for \(id)")
            }
        } catch {
            throw IdentityError(error)
        }
    }

    /// Chain, then roots: what an issuing program prints and `ca sign` does.
    public var pem: [UInt8] { (chain + roots).flatMap(\.pem) }
}
