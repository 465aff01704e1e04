import MeshIdentity
import Platform

/// Who a node is, and whom else it knows by that: a credential, and the bundles that came with it.
struct NodeIdentity: Sendable {
    let credential: Credential
    /// Of other trust domains; none of the credential's own.
    var federated: [TrustBundle] = []
}

/// What a Workload API has said, verified.
struct WorkloadIdentity: Sendable {
    /// Who was asked, and for what.
    let settings: WorkloadAPISettings
    let identity: NodeIdentity
    /// What of it was left aside, for people: the rest is good.
    let problems: [String]

    /// As ``TrustBundleFile`` has it.
    private static let mostRoots = 64
    private static let mostIntermediates = 16

    /// Verifies what an agent says. It is trusted for who this node is, and nothing else: what contradicts itself, or
    /// would be refused by every peer, is not taken.
    ///
    /// - Parameters:
    ///   - former: What it said before: a federated bundle that is broken now is as it was then.
    ///   - now: Seconds since 1970; nil is the clock.
    /// - Throws: ``IdentityError``: nothing of it is taken.
    init(
        _ response: WorkloadResponse,
        for settings: WorkloadAPISettings,
        after former: WorkloadIdentity? = nil,
        at now: Int64? = nil
    ) throws(IdentityError) {
        let svid = try Self.choose(response, settings)
        let id: SPIFFEID
        do throws(SPIFFEIDError) {
            id = try SPIFFEID(svid.id)
        } catch {
            throw IdentityError(
                .invalidCertificate,
                "the agent calls this node '\(Printable.clean(svid.id, limit: 200))', which is no SPIFFE ID: \(error)"
            )
        }
        let lists = try Self.revocationLists(response)
        let credential: Credential
        do throws(IdentityError) {
            credential = try Credential(
                key: PrivateKey(pkcs8: svid.key),
                chain: Certificate.all(der: svid.chain, limit: Self.mostIntermediates + 1),
                roots: Certificate.all(der: svid.bundle, limit: Self.mostRoots),
                revocationLists: lists,
                at: now
            )
        } catch {
            throw IdentityError(error.code, "the SVID of \(id): \(error.message)")
        }
        guard credential.id == id else {
            throw IdentityError(
                .invalidCertificate,
                "the agent calls this node \(id), and its certificate is of \(credential.id)"
            )
        }
        var problems: [String] = []
        var federated: [TrustBundle] = []
        var seen: Set<TrustDomain> = [id.trustDomain]
        for entry in response.federatedBundles {
            let shown = Printable.clean(entry.domain, limit: 200)
            guard let domain = Self.trustDomain(entry.domain) else {
                problems.append("a federated bundle is of '\(shown)', which is no trust domain")
                continue
            }
            guard seen.insert(domain).inserted else {
                problems.append(
                    domain == id.trustDomain
                        ? "a federated bundle is of \(domain), which is this node's own trust domain"
                        : "there are two federated bundles of \(domain)"
                )
                continue
            }
            // A domain that has no X.509 authorities has no members.
            guard !entry.roots.isEmpty else { continue }
            do throws(IdentityError) {
                let roots = try Certificate.all(der: entry.roots, limit: Self.mostRoots)
                federated.append(try TrustBundle(trustDomain: domain, roots: roots, revocationLists: lists))
            } catch {
                let kept = former?.identity.federated.first { $0.trustDomain == domain }
                problems.append(
                    "the federated bundle of \(domain): \(error.message)"
                        + (kept == nil ? "" : "; the one before goes on")
                )
                if let kept { federated.append(kept) }
            }
        }
        self.settings = settings
        self.problems = problems
        identity = NodeIdentity(
            credential: credential,
            federated: federated.sorted { $0.trustDomain < $1.trustDomain }
        )
    }

    private static func choose(
        _ response: WorkloadResponse,
        _ settings: WorkloadAPISettings
    ) throws(IdentityError) -> WorkloadResponse.SVID {
        guard let first = response.svids.first else {
            throw IdentityError(.notFound, "the agent's response has no SVID")
        }
        guard let wanted = settings.spiffeID else { return first }
        if let found = response.svids.first(where: { $0.id == wanted.description }) { return found }
        let ids = response.svids.prefix(5).map { Printable.clean($0.id, limit: 200) }
        let others = response.svids.count > ids.count ? " and \(response.svids.count - ids.count) more" : ""
        let isOfAnotherDomain = !response.svids.contains { $0.id.hasPrefix("spiffe://\(wanted.trustDomain)/") }
        throw IdentityError(
            .refused,
            "the agent has no SVID of \(wanted) for this process; it has \(ids.joined(separator: ", "))\(others). "
                + (isOfAnotherDomain
                    ? "None is of the trust domain \(wanted.trustDomain): is that the right agent? Else correct 'spiffeID'"
                    : "Register an entry for it, or correct 'spiffeID'")
        )
    }

    private static func revocationLists(_ response: WorkloadResponse) throws(IdentityError) -> [UInt8]? {
        var pem: [UInt8] = []
        for (index, der) in response.revocationLists.enumerated() {
            do throws(IdentityError) {
                pem += try RevocationList(der: der).pem
            } catch {
                throw IdentityError(error.code, "revocation list \(index + 1): \(error.message)")
            }
        }
        return pem.isEmpty ? nil : pem
    }

    /// `spiffe://partner.example`, and `partner.example`, too: agents differ.
    private static func trustDomain(_ text: String) -> TrustDomain? {
        let scheme = "spiffe://"
        return try? TrustDomain(text.hasPrefix(scheme) ? String(text.dropFirst(scheme.count)) : text)
    }

    /// Whether it shows, trusts and revokes the same.
    func isSame(as other: WorkloadIdentity) -> Bool {
        settings == other.settings && identity.isSame(as: other.identity)
    }

    // MARK: The end

    /// How far its certificate is past the time when an agent has sent a newer one: half of its life, as a rule.
    enum Lateness: Int, Comparable {
        case none
        /// Three quarters of its life are over.
        case late
        /// Fifteen sixteenths.
        case veryLate
        case expired

        static func < (left: Lateness, right: Lateness) -> Bool { left.rawValue < right.rawValue }
    }

    /// - Parameter now: Seconds since 1970.
    func lateness(at now: Int64) -> Lateness {
        let credential = identity.credential
        guard now < credential.notAfter else { return .expired }
        let left = credential.notAfter.subtractingSaturating(now)
        let life = credential.notAfter.subtractingSaturating(credential.notBefore)
        if left < life / 16 { return .veryLate }
        return left < life / 4 ? .late : .none
    }
}

extension NodeIdentity {
    /// Whether it shows, trusts and revokes the same.
    func isSame(as other: NodeIdentity) -> Bool {
        credential.isSame(as: other.credential) && federated.count == other.federated.count
            && zip(federated, other.federated).allSatisfy { $0.isSame(as: $1) }
    }
}

extension Credential {
    fileprivate func isSame(as other: Credential) -> Bool {
        chain == other.chain && bundle.isSame(as: other.bundle)
    }
}

extension TrustBundle {
    fileprivate func isSame(as other: TrustBundle) -> Bool {
        trustDomain == other.trustDomain && roots == other.roots && revocations == other.revocations
    }
}
