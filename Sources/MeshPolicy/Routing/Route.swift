package import Platform
package import Streams

/// Where a stream goes, and why.
package struct Route: Hashable, Sendable {
    package enum Action: Hashable, Sendable {
        /// To another node, by one of the ways to it.
        case mesh(MeshRoute)
        /// Dialled from here without HBONE. A name must be resolved, and each address put to
        /// ``Router/refusal(dialing:port:from:)`` before it is dialled.
        case direct(Authority, tls: DirectTLS?)
        /// This node listens for the peer that asks: on the loopback addresses of this port, and on this address.
        case listen(Authority)
        /// Not at all; the code is `denied`, or `loop`. The message is for this side's log: it names keys of the
        /// configuration.
        case refused(StreamError)
    }

    /// What led to a route. It becomes text where it is read: a stream that opens has no use for words.
    package enum Cause: Hashable, Sendable {
        /// An endpoint; how people find it.
        case endpoint(String)
        /// An endpoint that is this node itself.
        case endpointIsThisNode(String)
        /// The destination is this node itself.
        case thisNode(host: String)
        case words(String)

        /// One line: which element of the configuration, or which rule, led here.
        package var description: String {
            switch self {
            case .endpoint(let endpoint): endpoint
            case .endpointIsThisNode(let endpoint): "\(endpoint) is this node itself"
            case .thisNode(let host): "\(host) is this node itself"
            case .words(let words): words
            }
        }
    }

    package let action: Action
    package let cause: Cause
    /// Index of the endpoint that matched.
    package let endpoint: Int?
    /// It ends at a service of this machine, of which nobody says at which of its addresses it listens.
    package var isThisMachine = false
    /// What is dialled is told who asks.
    package internal(set) var announces: ProxyVersion?
    /// What the configuration names that led to it.
    var named = NamedHost()
    /// The address of this machine that it is asked for at; nil: at none in particular.
    package var ownAddress: IPAddress?

    init(action: Action, cause: Cause, endpoint: Int? = nil) {
        self.action = action
        self.cause = cause
        self.endpoint = endpoint
    }

    package var reason: String { cause.description }

    /// The refusal, if it is one.
    package var refusal: StreamError? {
        if case .refused(let error) = action { error } else { nil }
    }
}

/// A route to another node.
package struct MeshRoute: Hashable, Sendable {
    package var peer: Peer
    /// What CONNECT's `:authority` (or `x-tun`), or the SSH direct-tcpip request, carries.
    package var authority: Authority

    package init(peer: Peer, authority: Authority) {
        self.peer = peer
        self.authority = authority
    }
}
