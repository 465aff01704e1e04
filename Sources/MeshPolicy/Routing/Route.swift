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
        /// Not at all; the code is `denied`. The message is for this side's log: it names keys of the configuration.
        case refused(StreamError)
    }

    package var action: Action
    /// One line: which element of the configuration, or which rule, led here.
    package var reason: String
    /// Index of the endpoint that matched.
    package var endpoint: Int?
    /// It ends at a service of this machine, of which nobody says at which of its addresses it listens.
    package var isThisMachine = false

    package init(action: Action, reason: String, endpoint: Int? = nil) {
        self.action = action
        self.reason = reason
        self.endpoint = endpoint
    }

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
