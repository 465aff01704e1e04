/// What carries a stream between two nodes, best first.
package enum Transport: String, CaseIterable, Hashable, Sendable, CustomStringConvertible {
    /// mTLS HTTP/2 CONNECT.
    case h2
    /// The same over a connection that the side which is asked has dialled.
    case h2Reverse = "h2-reverse"
    /// The same inside of a stream through gateways.
    case h2ViaGateway = "h2-via-gateway"
    /// The same over an SSH direct-tcpip channel.
    case h2OverSSH = "h2-over-ssh"
    /// An SSH direct-tcpip channel alone.
    case ssh

    package var description: String { rawValue }
}
