package import Platform

/// A peer has a node listen for it (docs/protocol.md, 2.12): the words of the request, and of a refusal.
package enum PeerListening {
    /// The host of its destination, whose port is the one to listen on: a name that is nobody's. An endpoint that has
    /// it in so many words is what allows it.
    package static let host = "listen.bootstrap"
    /// Of the request: on which addresses; of the answer: where the node listens.
    package static let field = "x-listen"

    /// The addresses of its machine that a node is to listen on.
    package enum Interface: Hashable, Sendable {
        case loopback
        case every
        case address(IPAddress)

        /// `localhost`, `*`, or an address; nil: none of these.
        package init?(_ text: String) {
            switch text {
            case "localhost": self = .loopback
            case "*": self = .every
            default:
                guard let address = IPAddress(text) else { return nil }
                self = address.isUnspecified ? .every : .address(address)
            }
        }

        /// The address to bind, where an endpoint allows `allowed`; nil: that is more than is allowed. The loopback
        /// addresses always are.
        package func address(within allowed: IPAddress) -> IPAddress? {
            switch self {
            case .loopback: .loopbackIPv4
            case .every: allowed.isUnspecified ? allowed : nil
            case .address(let address):
                address.isLoopback || allowed.isUnspecified || address == allowed ? address : nil
            }
        }
    }

    /// What a peer is told of a refusal, so that it knows that this node could have listened: nodes of earlier releases
    /// look for a host of that name, or have other words for their policy.
    package static func refusal(_ reason: String) -> String { marker + reason }

    /// Whether that is in a message about what a node has answered.
    package static func isRefusal(_ message: String) -> Bool { message.contains(marker) }

    private static let marker = "listen: "
}
