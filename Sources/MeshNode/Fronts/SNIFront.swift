import H2Transport
import Logging
import MeshPolicy
import Platform
import Streams

/// Passthrough: a TLS connection goes where the server name of its ClientHello says, and TLS ends there, not here.
enum SNIFront {
    static func accept(_ socket: Socket, by listener: NodeConfiguration.Listener, _ carrier: StreamCarrier) {
        let source = socket.peerAddress?.address ?? .loopbackIPv4
        let newcomers = carrier.newcomers
        var key: Newcomers.Key?
        let connection = SNIConnection(
            socket,
            .init(
                connect: { connection, destination in
                    if let key { newcomers.remove(key) }
                    return connect(connection, request(of: socket, to: destination, by: listener, carrier), carrier)
                },
                failed: { destination, error in
                    if let key { newcomers.remove(key) }
                    // Why a stream did not open was told when it did not.
                    guard destination == nil else { return }
                    carrier.peerLog.log(
                        .info,
                        "no ClientHello that leads anywhere",
                        of: "\(source)",
                        ["listener": "\(listener.name)", "reason": "\(error)"]
                    )
                }
            )
        )
        key = carrier.admit(from: source) { [weak connection] in connection?.drop(.crowdedOut) }
        connection.start()
    }

    /// TLS names a server here and proves no client, and there are no passwords: beyond loopback a client is anybody,
    /// and reaches what a policy lets anybody reach.
    private static func request(
        of socket: Socket,
        to destination: Authority,
        by listener: NodeConfiguration.Listener,
        _ carrier: StreamCarrier
    ) -> StreamRequest {
        guard !listener.bind.address.isLoopback else { return carrier.request(of: socket, to: destination) }
        return StreamRequest(
            source: .unauthenticated,
            sourceIP: socket.peerAddress?.address ?? .loopbackIPv4,
            transport: nil,
            destination: destination,
            now: WallClock.system.seconds
        )
    }

    private static func connect(
        _ connection: SNIConnection,
        _ request: StreamRequest,
        _ carrier: StreamCarrier
    ) -> () -> Void {
        carrier.open(request) { result in
            switch result {
            case .success(let opened):
                guard let early = connection.succeed() else {
                    return opened.abandon()
                }
                carrier.join(connection.client, early: early, opened, request)
            case .failure(let error): connection.refuse(error)
            }
        }
    }
}
