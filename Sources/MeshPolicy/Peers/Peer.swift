package import MeshIdentity
package import Platform

/// Which peer it is, for as long as what says how to reach it stays the same.
///
/// Never a place in a file: whatever is written above, below or around a peer's own element does not make another peer
/// of it, and cuts none of its streams.
package struct PeerID: Hashable, Sendable, CustomStringConvertible {
    /// What people call it: the `match` of its endpoint, or the name of a device.
    package let name: String
    /// Everything that says how it is reached and whom it must be, in one text. A change makes another peer of the same
    /// name, since connections that were made for the one must not serve the other.
    package let facts: String

    package init(_ name: String, facts: String = "") {
        self.name = name
        self.facts = facts
    }

    package var description: String { name }
}

/// Another node, and the ways to it. An object that does not change: routes and plans hand it around.
package final class Peer: Hashable, Sendable {
    package let id: PeerID
    /// In order of preference.
    package let candidates: [PathCandidate]
    /// Where its HBONE server listens, if it is known.
    package let servers: [Authority]
    /// The peer is one of these; empty: any of the node's own trust domain and namespace.
    package let identities: [SPIFFEID]

    package init(id: PeerID, candidates: [PathCandidate], servers: [Authority] = [], identities: [SPIFFEID] = []) {
        self.id = id
        self.candidates = candidates
        self.servers = servers
        self.identities = identities
    }

    package static func == (left: Peer, right: Peer) -> Bool {
        left === right
            || left.id == right.id && left.candidates == right.candidates && left.servers == right.servers
                && left.identities == right.identities
    }

    package func hash(into hasher: inout Hasher) {
        hasher.combine(id)
    }

    /// Who must be at the other end, for a node with the identity `own`: one of ``identities``, or, where none is
    /// named, any workload of the node's own trust domain and namespace. Nobody, if `own` has no namespace to compare.
    package func expectation(own: SPIFFEID) -> PeerExpectation {
        if !identities.isEmpty { return .identities(identities) }
        guard let namespace = own.namespace else { return .identities([]) }
        return .namespace(namespace, in: own.trustDomain)
    }
}
