import Streams

/// An HTTP/1.1 proxy for programs of this machine, and with passwords or tokens for those of others: CONNECT,
/// requests in absolute form, and `/proxy.pac` for browsers.
enum HTTPProxyFront {
    static func accept(_ socket: Socket, by listener: NodeConfiguration.Listener, _ carrier: StreamCarrier) {
        if case .nobody = carrier.access(to: listener) { return socket.reset(.closed(socket)) }
        HTTPProxyConnection(socket, listener, carrier).start()
    }
}
