import H2Transport
import Logging
import Platform
import Streams

/// Ingress for HTTP/1.1, with TLS around it or without: each request goes where the listener's routes say.
enum HTTPFront {
    static func accept(_ socket: Socket, by listener: NodeConfiguration.Listener, _ carrier: StreamCarrier) {
        // A reload has taken the listener out of the configuration, and it stays until the restart.
        guard let rules = carrier.snapshot.ingress[listener.name] else { return socket.reset(.closed(socket)) }
        let load = carrier.live.load(of: listener)
        guard load.connections < rules.settings.limits.connections else {
            let source = socket.peerAddress?.address ?? .loopbackIPv4
            carrier.peerLog.log(
                .warning,
                "too many connections",
                of: "\(source)",
                ["listener": "\(listener.name)"]
            )
            return socket.reset(StreamError(.limit, "listener '\(listener.name)' takes no more connections now"))
        }
        guard listener.protocol == .https else {
            return IngressConnection(socket, by: listener, rules, load, carrier).start()
        }
        IngressClient.handshake(socket, by: listener, carrier) { stream in
            IngressConnection(stream, by: listener, rules, load, carrier).start()
        }
    }
}
