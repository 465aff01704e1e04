public import Platform

/// How a destination is reached.
public struct Endpoint: Hashable, Sendable {
    public enum Way: Hashable, Sendable {
        /// Dialled from here, without HBONE.
        case direct(tls: DirectTLS?)
        /// Through another node.
        case peer(Peer)
    }

    public var match: EndpointMatch
    /// What is asked for in place of the destination; nil: the destination itself.
    public var address: Authority?
    public var way: Way
    /// Where it is written, for messages.
    public var position: SourcePosition?

    public init(match: EndpointMatch, address: Authority? = nil, way: Way, position: SourcePosition? = nil) {
        self.match = match
        self.address = address
        self.way = way
        self.position = position
    }
}

/// TLS added to a connection that is dialled from here.
public struct DirectTLS: Hashable, Sendable {
    /// What the server's certificate must be for; nil: the host that is dialled.
    public var serverName: String?

    public init(serverName: String? = nil) {
        self.serverName = serverName
    }
}
