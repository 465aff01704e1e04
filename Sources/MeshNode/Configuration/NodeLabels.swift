package import H2Transport
import Streams
import YAML

extension NodeConfiguration {
    /// The key `labels`: what the node says about itself with each stream, as ztunnel does for a workload. Nobody is
    /// to trust it.
    package struct Labels: Hashable, Sendable {
        /// Sent with requests that begin here, and with answers.
        package var baggage = Baggage()
        /// The network that the node is in: sent to workloads behind gateways, and in no baggage.
        package var network: String?

        package init() {}
    }
}

struct NodeLabelsDecoder {
    let diagnostics: Diagnostics

    /// Istio's label for the network of a workload, which is no key of a baggage.
    static let network = "topology.istio.io/network"
    static let most = 32
    /// Bytes of what is sent; it goes with every request.
    static let longest = 2048

    func decode(_ node: YAMLNode) -> NodeConfiguration.Labels {
        var labels = NodeConfiguration.Labels()
        guard case .mapping(let entries) = node.content, !entries.isEmpty else {
            diagnostics.report(
                "'labels' must be a mapping like {k8s.namespace.name: prod, service.name: web}, not \(node.kind)",
                at: node.position
            )
            return labels
        }
        for entry in entries {
            guard let value = entry.value.string("label '\(entry.key)'", diagnostics) else { continue }
            if entry.key == Self.network {
                guard value.utf8.count <= 253, value.utf8.allSatisfy({ (0x21...0x7e).contains($0) }) else {
                    diagnostics.report(
                        "label '\(entry.key)': '\(value.prefix(80))' must be the name of a network, at most 253 letters, "
                            + "digits and signs",
                        at: entry.value.position
                    )
                    continue
                }
                labels.network = value
                continue
            }
            guard Baggage.isKey(entry.key.utf8[...]) else {
                diagnostics.report(
                    "label '\(entry.key.prefix(80))' cannot be a key of a baggage: use letters, digits, '.', '-' and '_', "
                        + "as in service.name, or \(Self.network) for the network",
                    at: entry.keyPosition
                )
                continue
            }
            labels.baggage[entry.key] = value
        }
        let size = labels.baggage.description.utf8.count
        if entries.count > Self.most || size > Self.longest {
            diagnostics.report(
                "'labels' has \(entries.count) labels and \(size) bytes, and goes with every stream: \(Self.most) labels and "
                    + "\(Self.longest) bytes are allowed",
                at: node.position
            )
        }
        return labels
    }
}
