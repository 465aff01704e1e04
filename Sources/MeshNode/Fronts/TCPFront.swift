import Streams

/// Whitebox: what connects to the listener is connected to the listener's `forwardTo`.
enum TCPFront {
    static func accept(_ socket: Socket, by listener: NodeConfiguration.Listener, _ carrier: StreamCarrier) {
        guard let destination = listener.forwardTo else { return socket.reset(.closed(socket)) }
        carrier.carry(socket, carrier.request(of: socket, to: destination))
    }
}
