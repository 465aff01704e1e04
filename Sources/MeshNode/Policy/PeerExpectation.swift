public import MeshIdentity

/// Who must be at the other end of a connection that this node dials: the peer's certificate is checked against it before a
/// byte is sent, and a failure is final on every path.
public enum PeerExpectation: Hashable, Sendable, CustomStringConvertible {
    /// Exactly one of these; never empty.
    case oneOf([SPIFFEID])
    /// Any workload of the node's own trust domain and namespace.
    case sameNamespace

    /// What the key `identity` of `endpoint` asks for.
    public init(_ endpoint: NodeConfiguration.Endpoint) {
        self = endpoint.identities.isEmpty ? .sameNamespace : .oneOf(endpoint.identities)
    }

    /// Whether `peer`, a verified identity, is who was expected by a node with the identity `own`.
    public func accepts(_ peer: SPIFFEID, own: SPIFFEID) -> Bool {
        switch self {
        case .oneOf(let identities): identities.contains(peer)
        case .sameNamespace:
            peer.trustDomain == own.trustDomain && peer.namespace != nil && peer.namespace == own.namespace
        }
    }

    public var description: String {
        switch self {
        case .oneOf(let identities): identities.map(\.description).joined(separator: " or ")
        case .sameNamespace: "any workload of this node's trust domain and namespace"
        }
    }
}
