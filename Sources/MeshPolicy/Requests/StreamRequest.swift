package import MeshIdentity
package import Platform

/// A stream that is asked for: who asks, from where, over what, and for which destination.
///
/// Every way into a node makes one; ``StreamPlanner`` says what becomes of it.
package struct StreamRequest: Hashable, Sendable {
    package enum Source: Hashable, Sendable {
        /// A peer whose certificate was verified.
        case peer(SPIFFEID)
        /// A user of this machine, through a local listener: has the node's own identity. Allowed unless a policy says
        /// otherwise; where it may go is a matter of routing.
        case localUser
        /// Somebody without a mesh identity.
        case unauthenticated
    }

    package var source: Source
    /// The peer's address, loopback for a local user.
    package var sourceIP: IPAddress
    /// What it came over; nil for a local user's, which has come over nothing yet: each way to its peer is decided for
    /// itself.
    package var transport: Transport?
    package var destination: Authority
    /// The nodes that it has come through.
    package var hops: HopTrail
    /// When it is decided, in seconds since 1970-01-01T00:00:00Z.
    package var now: Int64

    package init(
        source: Source,
        sourceIP: IPAddress,
        transport: Transport?,
        destination: Authority,
        hops: HopTrail = HopTrail(),
        now: Int64
    ) {
        self.source = source
        self.sourceIP = sourceIP
        self.transport = transport
        self.destination = destination
        self.hops = hops
        self.now = now
    }

    /// The same, over `transport`.
    func over(_ transport: Transport) -> StreamRequest {
        var request = self
        request.transport = transport
        return request
    }
}

extension StreamRequest {
    /// What rules compare ``transport`` with. A rule about transports means those between nodes: a stream that a local
    /// user has dialled from here counts as one of the best kind.
    package var decidedTransport: Transport { transport ?? .h2 }

    /// Who asks: a SPIFFE ID, or words.
    package var sourceDescription: String {
        switch source {
        case .peer(let peer): peer.description
        case .localUser: "local user"
        case .unauthenticated: "somebody without a mesh identity"
        }
    }
}
