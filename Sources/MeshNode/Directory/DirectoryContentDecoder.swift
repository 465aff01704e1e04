import MeshDirectory
import MeshIdentity
import MeshPolicy
import Platform
import Streams
import YAML

/// Decodes what is written in a directory, or a segment of it.
struct DirectoryContentDecoder {
    let diagnostics: Diagnostics
    let bundle: TrustBundle

    private static let sections = ["endpoints", "policy", "bundles", "devices", "revocations"]

    /// The whole.
    func decode(_ root: YAMLNode) -> DirectoryBlock.Values {
        var values = DirectoryBlock.Values()
        guard let mapping = MappingDecoder(root, what: "the directory", keys: Self.sections, diagnostics) else {
            return values
        }
        for section in Self.sections {
            if let node = mapping[section] { decode(section, node, into: &values) }
        }
        checkMatches(values.endpoints + values.devices)
        let counts = [
            ("endpoints and devices", values.endpoints.count + values.devices.count, DirectoryContent.mostEndpoints),
            ("policies", values.policies.count, DirectoryContent.mostPolicies),
            ("bundles", values.bundles.count, DirectoryContent.mostBundles),
        ]
        for (what, count, most) in counts where count > most {
            diagnostics.report("has \(count) \(what); \(most) are allowed", at: root.position)
        }
        return values
    }

    /// A segment.
    ///
    /// - Returns: nil: something is wrong with it, or it is not whole.
    static func values(
        of segment: DirectoryOutline.Segment,
        _ text: ArraySlice<UInt8>,
        bundle: TrustBundle
    ) -> DirectoryBlock.Values? {
        var values = DirectoryBlock.Values()
        let diagnostics = Diagnostics(file: "a segment")
        let decoder = DirectoryContentDecoder(diagnostics: diagnostics, bundle: bundle)
        if segment.sections.isEmpty {
            guard let text = String(validating: text, as: UTF8.self), DirectoryText.isBlank(text) else { return nil }
        }
        for section in segment.sections {
            let start = text.startIndex
            let piece = text[start + section.range.lowerBound..<start + section.range.upperBound]
            // As it stands in the whole: below its name.
            let head = section.isContinued ? "\(section.name):\n" : ""
            guard sections.contains(section.name), let text = String(validating: piece, as: UTF8.self),
                let root = try? YAMLDocument.parse(head + text, file: "a segment"),
                case .mapping(let entries) = root.content, entries.count == 1, entries[0].key == section.name
            else { return nil }
            let node = entries[0].value
            if section.isList {
                var count = 0
                if case .sequence(let nodes) = node.content { count = nodes.count }
                values.elements[section.name, default: 0] += count
                // Its elements may be in other segments.
                if node.isNull, count == 0 { continue }
            }
            decoder.decode(section.name, node, into: &values)
        }
        do throws(ConfigurationError) {
            try diagnostics.throwIfAny()
        } catch {
            return nil
        }
        return values
    }

    private func decode(_ section: String, _ node: YAMLNode, into values: inout DirectoryBlock.Values) {
        switch section {
        case "endpoints":
            let decoder = NodeConfigurationDecoder(diagnostics: diagnostics, paths: PathResolution(file: ""))
            values.endpoints += node.list("'endpoints'", diagnostics) { endpoint($0, decoder) } ?? []
        case "devices": values.devices += node.list("'devices'", diagnostics, device) ?? []
        case "policy": values.policies += policies(node)
        case "bundles": values.bundles += node.list("'bundles'", diagnostics, foreignBundle) ?? []
        default: values.revocations = revocations(node)
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
