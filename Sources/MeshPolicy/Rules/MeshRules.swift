package import Platform

/// Everything that a node decides by: who may reach what, where that is, and what of the node itself must not be
/// reached.
///
/// A configuration file is one way to write it down; a program can make one as well.
package struct MeshRules: Hashable, Sendable {
    /// What happens to a destination that no endpoint matches.
    package enum Unmatched: String, CaseIterable, Hashable, Sendable {
        /// Refuse.
        case deny
        /// Dial it without HBONE. For a peer's stream, only where policy names the port.
        case direct
    }

    /// A socket on which this node listens. A stream must not be led back into one: it would go round in a loop, or act
    /// in this node's name.
    package struct OwnSocket: Hashable, Sendable {
        /// For messages: `listener 'hbone'`.
        package var what: String
        /// May be the unspecified address.
        package var address: IPAddress
        package var port: UInt16

        package init(what: String, address: IPAddress, port: UInt16) {
            self.what = what
            self.address = address
            self.port = port
        }
    }

    /// Where they are written, for explanations: the path of a file.
    package var source: String
    package var policies: [AuthorizationPolicy]
    /// Earlier names of the node's own trust domain: what rules say of those, they say of it.
    package var aliases: [String]
    /// The first that matches says how.
    package var endpoints: [Endpoint]
    /// Those of a directory, which come after them.
    package var shared = EndpointTable()
    package var unmatched: Unmatched
    /// Where local listeners lead.
    package var forwards: [Authority]
    package var sockets: [OwnSocket]

    package init(
        source: String = "rules",
        policies: [AuthorizationPolicy] = [],
        aliases: [String] = [],
        endpoints: [Endpoint] = [],
        unmatched: Unmatched = .deny,
        forwards: [Authority] = [],
        sockets: [OwnSocket] = []
    ) {
        self.source = source
        self.policies = policies
        self.aliases = aliases
        self.endpoints = endpoints
        self.unmatched = unmatched
        self.forwards = forwards
        self.sockets = sockets
    }
}
