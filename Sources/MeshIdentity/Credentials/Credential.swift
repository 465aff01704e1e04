/// An identity that can be used: the key, the certificate that binds it to a SPIFFE ID, and the roots to verify peers
/// with.
public struct Credential: Sendable {
    /// Who this is, as the leaf says.
    public let id: SPIFFEID
    /// The private key of the leaf.
    public let key: PrivateKey
    /// The leaf first, then the CA certificates between it and a root, if any.
    public let chain: [Certificate]
    /// The roots of this identity's own trust domain.
    public let bundle: TrustBundle

    /// The certificate of this identity.
    public var leaf: Certificate { chain[0] }

    /// Seconds since 1970.
    public var notBefore: Int64 { leaf.notBefore }

    /// Seconds since 1970.
    public var notAfter: Int64 { leaf.notAfter }

    /// Fails if the key is not the certificate's, or the certificate does not keep the rules of `TrustBundle.verify`:
    /// whoever presented it would be refused by every peer.
    ///
    /// - Parameter key: The leaf's private key.
    /// - Parameter chain: The leaf first, then what is between it and a root.
    /// - Parameter roots: The roots of the identity's own trust domain.
    /// - Parameter revocationLists: What those no longer stand by, in PEM form; nil where there is none. The
    ///   credential's own certificate may be among it: peers decide about that.
    /// - Parameter now: seconds since 1970; nil is the clock.
    public init(
        key: PrivateKey,
        chain: [Certificate],
        roots: [Certificate],
        revocationLists: [UInt8]? = nil,
        at now: Int64? = nil
    ) throws(IdentityError) {
        guard let leaf = chain.first else { throw IdentityError(.invalidCertificate, "there is no certificate") }
        guard key.matches(leaf) else {
            throw IdentityError(.keyMismatch, "the private key and the certificate do not belong together")
        }
        let trustDomain: TrustDomain
        do throws(SVIDError) {
            trustDomain = try leaf.spiffeID().trustDomain
        } catch {
            throw IdentityError(error)
        }
        bundle = try TrustBundle(trustDomain: trustDomain, roots: roots, revocationLists: revocationLists)
        let vouching = try TrustBundle(trustDomain: trustDomain, roots: roots)
        do throws(SVIDError) {
            id = try vouching.verify(leaf: leaf, intermediates: Array(chain.dropFirst()), at: now)
        } catch {
            throw IdentityError(error)
        }
        self.key = key
        self.chain = chain
    }
}

extension Credential {
    /// The same, read from files that have changed, for a process that has used others until now: what was revoked
    /// there stays so, as with lists that are brought to a ``CredentialDirectory``.
    ///
    /// - Parameter former: What was in use; of another trust domain it says nothing.
    /// - Returns: What to use, and what is to be said of the lists in the files; nil where they hold as they are.
    package func keepingRevocations(of former: Credential) -> (credential: Credential, remark: String?) {
        let (known, given) = (former.bundle.revocations.pem, bundle.revocations.pem)
        guard !known.isEmpty, known != given, former.id.trustDomain == id.trustDomain else { return (self, nil) }
        do throws(IdentityError) {
            let update = try given.isEmpty ? nil : RevocationListUpdate(of: known, with: given, roots: bundle.roots)
            let lists = update?.pem ?? known
            guard lists != given else { return (self, update?.warning) }
            let strict = try TrustBundle(trustDomain: id.trustDomain, roots: bundle.roots, revocationLists: lists)
            let remark = update.map(\.warning) ?? "there is no revocation list any more"
            return (
                Credential(unverified: key, chain: chain, bundle: strict, claiming: id),
                strict.revocations.isEmpty ? nil : remark
            )
        } catch {
            // Of other roots, or too long for both: what the files say is good by itself.
            return (self, nil)
        }
    }

    /// A credential that nobody has verified, with whatever ID it claims: for tests that show how peers refuse it.
    ///
    /// - Parameter chain: at least one certificate.
    package init(unverified key: PrivateKey, chain: [Certificate], bundle: TrustBundle, claiming id: SPIFFEID) {
        precondition(!chain.isEmpty)
        self.key = key
        self.chain = chain
        self.bundle = bundle
        self.id = id
    }
}
