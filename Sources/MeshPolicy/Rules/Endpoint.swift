package import Platform

/// How a destination is reached.
package struct Endpoint: Hashable, Sendable {
    package enum Way: Hashable, Sendable {
        /// Dialled from here, without HBONE.
        case direct(tls: DirectTLS?)
        /// Through another node.
        case peer(Peer)
    }

    package var match: EndpointMatch
    /// What is asked for in place of the destination; nil: the destination itself.
    package var address: Authority?
    /// Only the host of ``address`` is asked for, at the destination's own port.
    package var keepsPort = false
    /// What it comes from, where that is not the node's own file.
    package var source: String?
    package var way: Way
    /// A direct connection begins with a header of the PROXY protocol, which says who asks; nil: with nothing.
    package var announces: ProxyVersion?
    /// Where it is written, for messages.
    package var position: SourcePosition?

    package init(
        match: EndpointMatch,
        address: Authority? = nil,
        way: Way,
        announces: ProxyVersion? = nil,
        position: SourcePosition? = nil
    ) {
        self.match = match
        self.address = address
        self.way = way
        self.announces = announces
        self.position = position
    }
}

extension Endpoint {
    /// It allows peers to have this node listen, and leads nowhere.
    var isForListening: Bool { match.host == .exact(PeerListening.host) }

    /// What is asked for in the place of `destination`.
    func target(for destination: Authority) -> Authority {
        guard let address else { return destination }
        guard keepsPort else { return address }
        return (try? Authority(host: address.host, port: destination.port)) ?? address
    }
}

/// How a header of the PROXY protocol is written: a line of text, or bytes, which say more.
package enum ProxyVersion: String, CaseIterable, Hashable, Sendable {
    case v1, v2
}

/// TLS added to a connection that is dialled from here, to a server that is no member of a mesh.
package struct DirectTLS: Hashable, Sendable {
    /// What the server's certificate must be for; nil: the host that is asked for.
    package var serverName: String?
    /// The file of those who may vouch for it; nil: the system's.
    package var roots: String?
    /// The directory of the certificate and the key that are shown; nil: none.
    package var credential: String?

    package init(serverName: String? = nil, roots: String? = nil, credential: String? = nil) {
        self.serverName = serverName
        self.roots = roots
        self.credential = credential
    }
}
