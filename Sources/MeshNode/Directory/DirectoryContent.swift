import MeshDirectory
package import MeshIdentity
package import MeshPolicy
package import Platform
import Streams
package import YAML

/// What a directory adds to a node's own configuration, decoded. It holds whole or not at all.
package struct DirectoryContent: Sendable {
    /// In order; the node's own come before them.
    package var endpoints: [NodeConfiguration.Endpoint] = []
    /// Their names begin with `directory/`: nobody takes them for the node's own.
    package var policies: [AuthorizationPolicy] = []
    /// Of other trust domains.
    package var bundles: [TrustBundle] = []
    /// Of the own trust domain, in PEM form; nil: the directory says nothing.
    package var revocations: [UInt8]?
    /// As it is written; nil: there is nothing.
    package var document: YAMLNode?

    package static let mostEndpoints = 50_000
    package static let mostPolicies = 10_000
    package static let mostBundles = 256

    /// Nothing.
    package init() {}

    /// - Parameters:
    ///   - content: YAML (`docs/directory.md`).
    ///   - file: What it is called in errors.
    ///   - bundle: The roots of the own trust domain.
    /// - Throws: Everything that is wrong with it.
    package init(
        parsing content: [UInt8],
        file: String,
        bundle: TrustBundle
    ) throws(ConfigurationError) {
        guard let text = String(validating: content, as: UTF8.self) else {
            throw ConfigurationError(issues: [.init(file: file, position: nil, message: "is not UTF-8 text")])
        }
        guard !DirectoryText.isBlank(text) else { return }
        let root = try YAMLDocument.parse(text, file: file)
        let diagnostics = Diagnostics(file: file)
        DirectoryContentDecoder(diagnostics: diagnostics, bundle: bundle).decode(root, into: &self)
        try diagnostics.throwIfAny()
        document = root
    }
}

private struct DirectoryContentDecoder {
    let diagnostics: Diagnostics
    let bundle: TrustBundle

    func decode(_ root: YAMLNode, into content: inout DirectoryContent) {
        let keys = ["endpoints", "policy", "bundles", "devices", "revocations"]
        guard let mapping = MappingDecoder(root, what: "the directory", keys: keys, diagnostics) else { return }
        let decoder = NodeConfigurationDecoder(diagnostics: diagnostics, paths: PathResolution(file: ""))
        content.endpoints = mapping["endpoints"]?.list("'endpoints'", diagnostics) { endpoint($0, decoder) } ?? []
        content.endpoints += mapping["devices"]?.list("'devices'", diagnostics, device) ?? []
        checkMatches(content.endpoints)
        content.policies = mapping["policy"].map(policies) ?? []
        content.bundles = mapping["bundles"]?.list("'bundles'", diagnostics, foreignBundle) ?? []
        content.revocations = mapping["revocations"].flatMap(revocations)
        let counts = [
            ("endpoints and devices", content.endpoints.count, DirectoryContent.mostEndpoints),
            ("policies", content.policies.count, DirectoryContent.mostPolicies),
            ("bundles", content.bundles.count, DirectoryContent.mostBundles),
        ]
        for (what, count, most) in counts where count > most {
            diagnostics.report("has \(count) \(what); \(most) are allowed", at: root.position)
        }
        // Errors name the line; what holds is said to be the directory's.
        for index in content.endpoints.indices {
            content.endpoints[index].source = "directory"
            content.endpoints[index].position = nil
        }
        for index in content.policies.indices {
            content.policies[index].name = "directory/\(content.policies[index].name)"
            content.policies[index].position = nil
        }
    }

    private func endpoint(
        _ node: YAMLNode,
        _ decoder: NodeConfigurationDecoder
    ) -> NodeConfiguration.Endpoint? {
        guard let endpoint = decoder.endpoint(node) else { return nil }
        // Each node has other files, and a directory must not make it read them.
        let files = [
            ("token", endpoint.token != nil), ("tls: {roots}", endpoint.tls?.roots != nil),
            ("tls: {credential}", endpoint.tls?.credential != nil),
            ("proxy: {roots}", endpoint.proxy?.roots != nil),
            ("ssh: {identityFile}", endpoint.ssh?.identityFile != nil),
            ("ssh: {knownHosts}", endpoint.ssh?.knownHosts != nil), ("ssh: {config}", endpoint.ssh?.config != nil),
        ]
        for (key, isThere) in files where isThere {
            diagnostics.report(
                "endpoint '\(endpoint.match)': '\(key)' names a file, and the directory is for every node: write this endpoint into the "
                    + "configuration of the nodes that have the file",
                at: node.position
            )
        }
        for (key, isThere) in [("labels", endpoint.tunnel != nil), ("via", !endpoint.via.isEmpty)]
        where isThere && !BuildFeatures.endpointKeys.contains(key) {
            diagnostics.report(
                "endpoint '\(endpoint.match)': '\(key)' is not available in this build",
                at: node.position
            )
        }
        if Set(endpoint.via).count != endpoint.via.count {
            diagnostics.report(
                "endpoint '\(endpoint.match)': a gateway of 'via' is there twice: that is a circle",
                at: node.position
            )
        }
        return endpoint
    }

    /// `{name: dev7, identity: spiffe://…, hbone: [10.0.0.7:15008]}`: every port of it, by its name.
    private func device(_ node: YAMLNode) -> NodeConfiguration.Endpoint? {
        let keys = ["name", "identity", "hbone"]
        guard let mapping = MappingDecoder(node, what: "a device", keys: keys, required: keys, diagnostics) else {
            return nil
        }
        let name = mapping.value("name") { try Authority(host: $0, port: 1) }
        let identity = mapping.value("identity") { try SPIFFEID($0) }
        let hbone =
            mapping["hbone"]?.list("'hbone'", diagnostics) { node in
                node.parsed("'hbone'", diagnostics) { try Authority(parsing: $0) }
            } ?? []
        guard let name, let identity, !hbone.isEmpty else { return nil }
        if identity.trustDomain != bundle.trustDomain {
            diagnostics.report(
                "device '\(name.host)': \(identity) is not of the trust domain \(bundle.trustDomain)",
                at: mapping.position(of: "identity")
            )
        }
        if DirectoryText.isOwnName(name) {
            diagnostics.report(
                "device '\(name.host)': every machine means itself by that name",
                at: mapping.position(of: "name")
            )
        }
        if hbone.count > DirectoryText.mostAddresses {
            diagnostics.report(
                "device '\(name.host)' has \(hbone.count) addresses; \(DirectoryText.mostAddresses) are allowed",
                at: node.position
            )
        }
        var unique: [Authority] = []
        for server in hbone where !unique.contains(server) { unique.append(server) }
        var endpoint = NodeConfiguration.Endpoint(
            match: EndpointMatch(host: .exact(name.host), port: nil),
            // Its own services, as `bootstrap connect` names them.
            address: try? Authority(host: "localhost", port: 1),
            hbone: unique,
            identities: [identity],
            position: node.position
        )
        endpoint.keepsPort = true
        return endpoint
    }

    private func checkMatches(_ endpoints: [NodeConfiguration.Endpoint]) {
        var first: [EndpointMatch: SourcePosition?] = [:]
        for endpoint in endpoints {
            guard let earlier = first.updateValue(endpoint.position, forKey: endpoint.match) else { continue }
            diagnostics.report(
                "'\(endpoint.match)' is never used, since line \(earlier?.line ?? 0) has the same destination: remove one",
                at: endpoint.position
            )
        }
    }

    private func policies(_ node: YAMLNode) -> [AuthorizationPolicy] {
        guard case .sequence = node.content else {
            diagnostics.report("'policy' must be a list of policies: no file can be named here", at: node.position)
            return []
        }
        let policies = PolicyDecoder(diagnostics: diagnostics).policies(node)
        for policy in policies {
            for rule in policy.rules where rule.readsHTTP || rule.readsToken {
                diagnostics.report(
                    "policy '\(policy.name)': methods, paths and requestPrincipals are known to nodes that read requests only: write "
                        + "this policy into their configurations",
                    at: rule.position
                )
            }
        }
        return policies
    }

    /// `{domain: partner.example, roots: PEM}`.
    private func foreignBundle(_ node: YAMLNode) -> TrustBundle? {
        let keys = ["domain", "roots"]
        guard let mapping = MappingDecoder(node, what: "a bundle", keys: keys, required: keys, diagnostics),
            let domain = mapping.value("domain", { try TrustDomain($0) }),
            let roots = mapping["roots"].flatMap({ pem($0, "'roots'") })
        else { return nil }
        guard domain != bundle.trustDomain else {
            diagnostics.report(
                "'\(domain)' is the mesh's own trust domain, whose roots come with each credential: remove it",
                at: mapping.position(of: "domain")
            )
            return nil
        }
        do throws(IdentityError) {
            return try TrustBundle(trustDomain: domain, roots: Certificate.all(pem: roots))
        } catch {
            diagnostics.report("'roots' of \(domain): \(error.message)", at: mapping.position(of: "roots"))
            return nil
        }
    }

    private func revocations(_ node: YAMLNode) -> [UInt8]? {
        guard let pem = pem(node, "'revocations'") else { return nil }
        do throws(IdentityError) {
            _ = try RevocationListUpdate(of: nil, with: pem, roots: bundle.roots)
            return pem
        } catch {
            diagnostics.report("'revocations': \(error.message)", at: node.position)
            return nil
        }
    }

    private func pem(_ node: YAMLNode, _ what: String) -> [UInt8]? {
        guard case .scalar(let text, _) = node.content, text.contains("-----BEGIN ") else {
            diagnostics.report(
                "\(what) must be PEM text: write it as a block, with '|' behind the key",
                at: node.position
            )
            return nil
        }
        return Array(text.utf8)
    }
}
