public import MeshIdentity
public import Platform

/// A stream that is asked for: who asks, from where, over what, and for which destination.
///
/// Every way into a node makes one; ``StreamPlanner`` says what becomes of it.
public struct StreamRequest: Hashable, Sendable {
    public enum Source: Hashable, Sendable {
        /// A peer whose certificate was verified.
        case peer(SPIFFEID)
        /// A user of this machine, through a local listener: has the node's own identity. Allowed unless a policy says otherwise;
        /// where it may go is a matter of routing.
        case localUser
        /// Somebody without a mesh identity.
        case unauthenticated
    }

    public var source: Source
    /// The peer's address, loopback for a local user.
    public var sourceIP: IPAddress
    /// What it came over; nil for a local user's, which has come over nothing yet: each way to its peer is decided for itself.
    public var transport: Transport?
    public var destination: Authority
    /// When it is decided, in seconds since 1970-01-01T00:00:00Z.
    public var now: Int64

    public init(source: Source, sourceIP: IPAddress, transport: Transport?, destination: Authority, now: Int64) {
        self.source = source
        self.sourceIP = sourceIP
        self.transport = transport
        self.destination = destination
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
    /// What rules compare ``transport`` with. A rule about transports means those between nodes: a stream that a local user has
    /// dialled from here counts as one of the best kind.
    public var decidedTransport: Transport { transport ?? .h2 }

    /// Who asks: a SPIFFE ID, or words.
    public var sourceDescription: String {
        switch source {
        case .peer(let peer): peer.description
        case .localUser: "local user"
        case .unauthenticated: "somebody without a mesh identity"
        }
    }
}
