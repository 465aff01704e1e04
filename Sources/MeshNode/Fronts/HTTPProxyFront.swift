import Streams

/// An HTTP/1.1 proxy for programs of this machine, and with passwords for those of others: CONNECT, requests in
/// absolute form, and `/proxy.pac` for browsers.
enum HTTPProxyFront {
    static func accept(_ socket: Socket, by listener: NodeConfiguration.Listener, _ carrier: StreamCarrier) {
        switch carrier.access(to: listener) {
        case .everybody: HTTPProxyConnection(socket, carrier, nil).start()
        case .users(let check): HTTPProxyConnection(socket, carrier, check).start()
        case .nobody: socket.reset(.closed(socket))
        }
    }
}
