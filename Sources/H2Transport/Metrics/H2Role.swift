/// Which side of HTTP/2 a connection is, whoever dialled the layer below.
public enum H2Role: Hashable, Sendable {
    /// Opens tunnels.
    case client
    /// Is asked for tunnels.
    case server
}
