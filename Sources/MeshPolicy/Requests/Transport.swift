/// What carries a stream between two nodes, best first.
public enum Transport: String, CaseIterable, Hashable, Sendable, CustomStringConvertible {
    /// mTLS HTTP/2 CONNECT.
    case h2
    /// The same over an SSH direct-tcpip channel.
    case h2OverSSH = "h2-over-ssh"
    /// An SSH direct-tcpip channel alone.
    case ssh

    public var description: String { rawValue }
}
