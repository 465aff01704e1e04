import Platform
import Streams
import YAML

/// Decodes who may say in a header of the PROXY protocol whose connection it is: the keys `proxyProtocol` and
/// `trustedProxies` of a listener.
struct ProxyProtocolDecoder {
    static let listenerKeys = ["proxyProtocol", "trustedProxies"]
    /// Fronts that are handed an accepted connection, whatever it begins with.
    static let protocols: Set<NodeConfiguration.ListenerProtocol> = [.tcp, .socks5, .sni, .tls, .http, .https]
    let diagnostics: Diagnostics

    private enum Choice: String, CaseIterable {
        case nobody = "none"
        case accept
    }

    func decode(_ mapping: MappingDecoder, into listener: inout NodeConfiguration.Listener) {
        let report = { [name = listener.name] (key: String, message: String) in
            diagnostics.report("listener '\(name)': \(message)", at: mapping.position(of: key))
        }
        let choice = mapping.choice("proxyProtocol", of: Choice.self)
        guard choice == .accept else {
            if mapping["trustedProxies"] != nil, choice != nil || mapping["proxyProtocol"] == nil {
                report("trustedProxies", "'trustedProxies' means nothing without 'proxyProtocol: accept': add it")
            }
            return
        }
        guard Self.protocols.contains(listener.protocol) else {
            let others = Self.protocols.map(\.rawValue).sorted().joined(separator: ", ")
            let what = "'proxyProtocol: accept' is for the protocols \(others), not \(listener.protocol.rawValue)"
            return report("proxyProtocol", "\(what): remove it")
        }
        guard let node = mapping["trustedProxies"] else {
            let what = "'proxyProtocol: accept' needs 'trustedProxies', the addresses of the load balancers in front"
            return report("proxyProtocol", "\(what), or anybody could say to be anybody")
        }
        listener.trustedProxies = node.list("'trustedProxies'", diagnostics) { element in
            element.parsed("'trustedProxies'", diagnostics) { try StreamError.reading(CIDR(parsing: $0)) }
        }
    }
}
