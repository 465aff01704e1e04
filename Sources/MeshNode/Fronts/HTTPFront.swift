import H2Transport
import Logging
import Platform
import Streams

/// Ingress for HTTP/1.1 and HTTP/2, with TLS around it or without: each request goes where the listener's routes say.
enum HTTPFront {
    static func accept(_ socket: Socket, by listener: NodeConfiguration.Listener, _ carrier: StreamCarrier) {
        // Its name has come to mean something else.
        guard let rules = carrier.snapshot.ingress[listener.name] else { return socket.reset(.closed(socket)) }
        let load = carrier.live.load(of: listener)
        let hasRoom = { load.connections < rules.settings.limits.connections }
        guard hasRoom() else { return refuse(socket, of: socket.peerAddress?.address, by: listener, carrier) }
        guard listener.protocol == .https else {
            return IngressConnection(socket, IngressGate(socket, by: listener, load, carrier), rules).start()
        }
        IngressClient.handshake(socket, by: listener, carrier) { stream in
            let gate = IngressGate(stream, by: listener, load, carrier)
            // Many shake hands at once, and count only when that is done.
            guard hasRoom() else { return refuse(stream, of: gate.source, by: listener, carrier) }
            if stream.peer?.applicationProtocol == "h2" {
                IngressHTTP2Connection.serve(stream, gate, rules.settings)
            } else {
                IngressConnection(stream, gate, rules).start()
            }
        }
    }

    private static func refuse(
        _ stream: ByteStream,
        of source: IPAddress?,
        by listener: NodeConfiguration.Listener,
        _ carrier: StreamCarrier
    ) {
        let client = "\(source ?? .loopbackIPv4)"
        carrier.peerLog.log(.warning, "too many connections", of: client, ["listener": "\(listener.name)"])
        stream.reset(StreamError(.limit, "listener '\(listener.name)' takes no more connections now"))
    }
}
