package import MeshIdentity
package import Platform

/// A stream that is asked for: who asks, from where, over what, and for which destination.
///
/// Every way into a node makes one; ``StreamPlanner`` says what becomes of it. An object that does not change: the
/// plan, its decisions and the stream all keep it, and the copies would cost more than everything else that is decided.
package final class StreamRequest: Hashable, Sendable {
    package enum Source: Hashable, Sendable {
        /// A peer whose certificate was verified.
        case peer(SPIFFEID)
        /// A user of a local listener: has the node's own identity. Allowed unless a policy says otherwise; where it
        /// may go is a matter of routing, which knows by ``StreamRequest/sourceIP`` who is on another machine.
        case localUser
        /// Somebody without a mesh identity.
        case unauthenticated
    }

    package let source: Source
    /// The address of the peer, or of a local listener's client; loopback where that has none.
    package let sourceIP: IPAddress
    /// What it came over; nil for a local user's, which has come over nothing yet: each way to its peer is decided for
    /// itself.
    package let transport: Transport?
    package let destination: Authority
    /// The nodes that it has come through.
    package let hops: HopTrail
    /// What a front that reads HTTP or a token knows beside that; nil where nobody reads them.
    package let details: RequestDetails?
    /// When it is decided, in seconds since 1970-01-01T00:00:00Z.
    package let now: Int64

    package init(
        source: Source,
        sourceIP: IPAddress,
        transport: Transport?,
        destination: Authority,
        hops: HopTrail = HopTrail(),
        details: RequestDetails? = nil,
        now: Int64
    ) {
        self.source = source
        self.sourceIP = sourceIP
        self.transport = transport
        self.destination = destination
        self.hops = hops
        self.details = details
        self.now = now
    }

    /// The same, asked at another time.
    package func at(_ now: Int64) -> StreamRequest { copy(now: now) }

    /// The same, for as long as the stream is open: the nodes that it has come through were for opening it.
    package var withoutHops: StreamRequest { hops.elements.isEmpty ? self : copy(hops: HopTrail()) }

    /// The same, for another destination.
    func to(_ destination: Authority) -> StreamRequest { copy(destination: destination) }

    private func copy(destination: Authority? = nil, hops: HopTrail? = nil, now: Int64? = nil) -> StreamRequest {
        StreamRequest(
            source: source,
            sourceIP: sourceIP,
            transport: transport,
            destination: destination ?? self.destination,
            hops: hops ?? self.hops,
            details: details,
            now: now ?? self.now
        )
    }

    package static func == (left: StreamRequest, right: StreamRequest) -> Bool {
        left === right || left.now == right.now && left.isSame(as: right)
    }

    /// Whether the same is asked for, at whatever time.
    package func isSame(as other: StreamRequest) -> Bool {
        source == other.source && sourceIP == other.sourceIP && transport == other.transport
            && destination == other.destination && hops == other.hops && details == other.details
    }

    package func hash(into hasher: inout Hasher) {
        hasher.combine(source)
        hasher.combine(sourceIP)
        hasher.combine(transport)
        hasher.combine(destination)
        hasher.combine(hops)
        hasher.combine(details)
        hasher.combine(now)
    }
}

extension StreamRequest {
    /// What rules compare ``transport`` with. A rule about transports means those between nodes: a stream that a local
    /// user has dialled from here counts as one of the best kind.
    package var decidedTransport: Transport { transport ?? .h2 }

    /// The verified identity of a peer.
    var peer: SPIFFEID? {
        if case .peer(let peer) = source { peer } else { nil }
    }

    /// Who asks: a SPIFFE ID, or words.
    package var sourceDescription: String {
        switch source {
        case .peer(let peer): peer.description
        case .localUser: "local user"
        case .unauthenticated: "somebody without a mesh identity"
        }
    }
}
