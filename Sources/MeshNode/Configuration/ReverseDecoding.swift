package import MeshIdentity
import MeshPaths
import MeshPolicy
package import Platform
import YAML

extension NodeConfiguration {
    /// One element of `reverse`: a gateway that this node is reached through, over a connection that it holds.
    package struct ReverseGateway: Hashable, Sendable {
        package var gateway: Authority
        /// It is one of these; empty: any of the node's own trust domain and namespace.
        package var identities: [SPIFFEID]
        package var position: SourcePosition?

        package init(gateway: Authority, identities: [SPIFFEID] = [], position: SourcePosition? = nil) {
            self.gateway = gateway
            self.identities = identities
            self.position = position
        }

        /// Who the gateway must be, for a node with the identity `own`.
        func expectation(own: SPIFFEID) -> PeerExpectation {
            Peer(id: PeerID(gateway.description), candidates: [], identities: identities).expectation(own: own)
        }
    }
}

/// Decodes `reverse`, and checks the key of an endpoint that has the same name.
struct ReverseDecoder {
    let diagnostics: Diagnostics

    /// More would be connections that nobody uses.
    private static let limit = 8

    static func isIn(_ root: YAMLNode) -> Bool {
        guard case .mapping(let entries) = root.content else { return false }
        return entries.contains { $0.key == "reverse" }
    }

    func decode(_ node: YAMLNode) -> [NodeConfiguration.ReverseGateway] {
        let all = node.list("'reverse'", diagnostics, element) ?? []
        if all.count > Self.limit {
            diagnostics.report("'reverse' has \(all.count) gateways; \(Self.limit) are allowed", at: node.position)
        }
        for (index, element) in all.enumerated()
        where all[..<index].contains(where: { $0.gateway == element.gateway }) {
            diagnostics.report("'reverse': \(element.gateway) is there twice: remove one", at: element.position)
        }
        return all
    }

    private func element(_ node: YAMLNode) -> NodeConfiguration.ReverseGateway? {
        let keys = ["gateway", "identity"]
        guard
            let mapping = MappingDecoder(
                node,
                what: "an element of 'reverse'",
                keys: keys,
                required: ["gateway"],
                diagnostics
            ),
            let gateway = mapping.value("gateway", { try Authority(parsing: $0) })
        else { return nil }
        return NodeConfiguration.ReverseGateway(
            gateway: gateway,
            identities: mapping["identity"].map(identities) ?? [],
            position: node.position
        )
    }

    private func identities(_ node: YAMLNode) -> [SPIFFEID] {
        let one = { (node: YAMLNode) in node.parsed("'identity'", self.diagnostics) { try SPIFFEID($0) } }
        if case .sequence = node.content { return node.list("'identity'", diagnostics, one) ?? [] }
        return one(node).map { [$0] } ?? []
    }

    /// Keys of an endpoint that contradict `reverse: true`, or are missing beside it.
    func check(_ endpoint: NodeConfiguration.Endpoint, _ mapping: MappingDecoder) {
        guard endpoint.reverse else { return }
        let report = { (key: String, message: String) in
            diagnostics.report("endpoint '\(endpoint.match)': \(message)", at: mapping.position(of: key))
        }
        if mapping["identity"] == nil {
            report("reverse", "'reverse: true' needs 'identity': who may hold connections here for this destination")
        }
        for key in ["via", "labels"] where mapping[key] != nil {
            report(key, "'\(key)' and 'reverse: true' are two ways to the same peer: remove one")
        }
        if endpoint.path != .automatic {
            report("path", "'path: \(endpoint.path.rawValue)' leaves 'reverse: true' out: remove one")
        }
    }
}
