import H2Transport
import MeshPolicy
import Streams

/// Ingress for any protocol in TLS: TLS ends here, and what is in it goes to the listener's `forwardTo`.
enum TLSFront {
    static func accept(_ socket: Socket, by listener: NodeConfiguration.Listener, _ carrier: StreamCarrier) {
        guard let destination = listener.forwardTo else { return socket.reset(.closed(socket)) }
        IngressClient.handshake(socket, by: listener, carrier) { stream in
            carrier.carry(
                stream,
                IngressClient.request(of: PeerFacts(of: stream), to: destination),
                certificate: stream.peer?.certificate
            )
        }
    }
}
