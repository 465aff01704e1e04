package import MeshIdentity
import MeshPolicy
package import Platform
import YAML

extension NodeConfiguration {
    /// One element of `trust`: another trust domain, and who vouches for its members.
    package struct ForeignTrust: Hashable, Sendable {
        package var domain: TrustDomain
        /// The file of its roots, read again with every reload, and when it has changed.
        package var bundle: String
        package var position: SourcePosition?

        package init(domain: TrustDomain, bundle: String, position: SourcePosition? = nil) {
            self.domain = domain
            self.bundle = bundle
            self.position = position
        }

        /// Reads the file.
        ///
        /// - Parameter own: The node's own trust domain, whose roots come with its credential and from nowhere else.
        /// - Throws: ``MeshIdentity/IdentityError``, with the domain in its text.
        func load(own: TrustDomain?) throws(IdentityError) -> TrustBundleFile {
            guard domain != own else {
                throw IdentityError(
                    .refused,
                    "'trust': \(domain) is this node's own trust domain, whose roots are those of its credential: remove it"
                )
            }
            do throws(IdentityError) {
                return try TrustBundleFile(loading: bundle, of: domain)
            } catch {
                throw IdentityError(error.code, "'trust': the bundle of \(domain): \(error.message)")
            }
        }
    }
}

struct ForeignTrustDecoder {
    let diagnostics: Diagnostics
    /// From the file's directory.
    let resolve: (String) -> String

    /// More would be a directory's affair.
    private static let limit = 256

    func decode(_ node: YAMLNode) -> [NodeConfiguration.ForeignTrust] {
        let all = node.list("'trust'", diagnostics, element) ?? []
        if all.count > Self.limit {
            diagnostics.report("'trust' has \(all.count) trust domains; \(Self.limit) are allowed", at: node.position)
        }
        for (index, foreign) in all.enumerated() {
            guard let first = all[..<index].first(where: { $0.domain == foreign.domain }) else { continue }
            diagnostics.report(
                "'trust': \(foreign.domain) is there twice, also at line \(first.position?.line ?? 0): a trust domain has "
                    + "one bundle; put all its roots into one file",
                at: foreign.position
            )
        }
        return all
    }

    private func element(_ node: YAMLNode) -> NodeConfiguration.ForeignTrust? {
        let keys = ["domain", "bundle"]
        guard let mapping = MappingDecoder(node, what: "an element of 'trust'", keys: keys, required: keys, diagnostics)
        else { return nil }
        let domain = mapping.value("domain") { try TrustDomain($0) }
        guard let bundle = mapping.string("bundle") else { return nil }
        // A path can hardly look like this, and what would be read in its place is a file that is not there.
        if bundle.contains("://") {
            diagnostics.report(
                "'bundle': \(bundle.prefix(80)) is a URL, and nothing here fetches one: save what it says to a file, with "
                    + "curl and a timer, and name that; it is taken over when it changes",
                at: mapping.position(of: "bundle")
            )
            return nil
        }
        guard let domain else { return nil }
        return NodeConfiguration.ForeignTrust(domain: domain, bundle: resolve(bundle), position: node.position)
    }
}

extension NodeConfiguration {
    /// What contradicts itself in `trust`, or says more than it seems to.
    func validateTrust(_ diagnostics: Diagnostics) {
        for foreign in trust where aliases.contains(foreign.domain) {
            diagnostics.report(
                "'trust': \(foreign.domain) is among 'aliases', which are earlier names of this node's own trust domain: it "
                    + "is one or the other; remove it from one of them",
                at: foreign.position
            )
        }
        guard let foreign = trust.first else { return }
        for policy in policy ?? [] where policy.action == .allow && !policy.dryRun {
            for rule in policy.rules {
                guard let source = rule.from.first(where: { !$0.namespaces.isEmpty && $0.principals.isEmpty }) else {
                    continue
                }
                let issue = ConfigurationError.Issue(
                    file: policy.importedFrom ?? file,
                    position: rule.position,
                    message:
                        "policy '\(policy.name)': 'namespaces' say no trust domain, and with 'trust' there is "
                        + "\(foreign.domain), too: say which one is meant, by 'principals: "
                        + "[\"TRUST-DOMAIN/ns/\(source.namespaces[0])/*\"]' in their place or beside them"
                )
                diagnostics.add(ConfigurationError(issues: [issue]))
            }
        }
    }

    /// Whether each bundle can be read.
    func validateTrustFiles(_ diagnostics: Diagnostics) {
        let own: TrustDomain? =
            switch identity {
            case .directory(let path): try? CredentialDirectory(path).load().id.trustDomain
            case .workloadAPI(let settings): settings.spiffeID?.trustDomain
            }
        for foreign in trust {
            do throws(IdentityError) {
                _ = try foreign.load(own: own)
            } catch {
                diagnostics.report(error.message, at: foreign.position)
            }
        }
        if let own, directory == nil { validatePeerTrust(own, diagnostics) }
    }

    /// Whoever is to be of a trust domain that nobody here vouches for is never believed: each stream would fail, and
    /// what is held would be dialled again and again.
    private func validatePeerTrust(_ own: TrustDomain, _ diagnostics: Diagnostics) {
        let known = Set([own] + aliases + trust.map(\.domain))
        func check(_ what: String, _ identities: [SPIFFEID], _ position: SourcePosition?) {
            for identity in identities where !known.contains(identity.trustDomain) {
                diagnostics.report(
                    "\(what) is to be \(identity), and nobody here vouches for \(identity.trustDomain): this node's own "
                        + "trust domain is \(own); correct the identity, or add {domain: \(identity.trustDomain), "
                        + "bundle: FILE} to 'trust'",
                    at: position
                )
            }
        }
        for element in reverse { check("'reverse': \(element.gateway)", element.identities, element.position) }
        for endpoint in endpoints {
            let who = endpoint.reverse ? "who holds connections here" : "its peer"
            check("endpoint '\(endpoint.match)': \(who)", endpoint.identities, endpoint.position)
        }
    }
}
