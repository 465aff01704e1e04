/// Which side of HTTP/2 a connection is, whoever dialled the layer below.
package enum H2Role: Hashable, Sendable {
    /// Opens tunnels.
    case client
    /// Is asked for tunnels.
    case server
}
