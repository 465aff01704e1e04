package import H2Transport
package import MeshPolicy
import Streams

/// How the far side of a tunnel knows what carries it: a client whose connection runs inside of SSH says so with each
/// request, by `x-transport: h2-over-ssh`.
///
/// A server believes it only from its own machine, which is where sshd, and the agent's relay, connect from: whoever
/// comes over the network has not come over SSH, whatever it says. That a connection comes from there proves nothing: a
/// program of the machine may have made it.
package enum TransportMark {
    static let field = "x-transport"

    /// What a client adds to each request that goes over `transport`.
    static func headers(for transport: Transport) -> HeaderFields {
        transport == .h2OverSSH ? [field: transport.rawValue] : [:]
    }

    /// What a request came over.
    package static func transport(of request: PendingConnect) -> Transport {
        // Who has dialled, this side knows by itself.
        if request.transport?.isReversed == true { return .h2Reverse }
        let transport = transport(request.request.headers, from: request.remoteAddress)
        // What comes inside of another stream has the address of whoever carries that.
        guard transport == .h2OverSSH, request.remoteAddress != nil, request.transport?.isOverSocket == false else {
            return transport
        }
        return .h2
    }

    static func transport(_ headers: HeaderFields, from remote: SocketAddress?) -> Transport {
        // A connection that is put together from several streams has no address; only SSH makes those.
        guard let remote else { return .h2OverSSH }
        return remote.isLoopback && headers[field] == Transport.h2OverSSH.rawValue ? .h2OverSSH : .h2
    }
}
