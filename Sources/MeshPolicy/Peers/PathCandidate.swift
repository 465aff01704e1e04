/// Names one way among those to the same peer: its kind, and what tells it from others of that kind.
///
/// The name is made of what the way is, not of its place in a list: it stays the same when others are added or go.
package struct PathID: Hashable, Sendable, CustomStringConvertible {
    package let transport: Transport
    /// An address, a gateway; empty for the only way of its kind.
    package let qualifier: String

    package init(_ transport: Transport, _ qualifier: String = "") {
        self.transport = transport
        self.qualifier = qualifier
    }

    /// `h2`, or `h2 10.0.0.7:15008`.
    package var description: String { qualifier.isEmpty ? transport.rawValue : "\(transport) \(qualifier)" }
}

/// One way to a peer, as policy and people see it. How it is gone, MeshPaths knows.
package struct PathCandidate: Hashable, Sendable, CustomStringConvertible {
    package var id: PathID
    /// Where it leads, after the name of its transport: `to 10.0.0.7:15008`, `by ops@10.0.0.7`.
    package var place: String

    package init(_ id: PathID, place: String) {
        self.id = id
        self.place = place
    }

    /// `h2 to 10.0.0.7:15008`.
    package var description: String { "\(id.transport) \(place)" }
}
