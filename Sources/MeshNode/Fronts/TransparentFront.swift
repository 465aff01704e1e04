import H2Transport
import Logging
import MeshPolicy
import Platform
import Streams

/// REDIRECT and TPROXY: a connection goes where it was going before a rule of the packet filter led it here.
enum TransparentFront {
    /// - Parameter names: What addresses stand for; nil where no listener gives them out.
    static func accept(
        _ socket: Socket,
        by listener: NodeConfiguration.Listener,
        _ carrier: StreamCarrier,
        _ names: VirtualNames?
    ) {
        let original: Authority
        switch Self.original(of: socket, listener) {
        case .success(let authority): original = authority
        // No record either: what would have to be told is where it was going.
        case .failure(let error): return refuse(socket, error, listener, carrier)
        }
        let client = socket.peerAddress?.address ?? .loopbackIPv4
        func request(to destination: Authority) -> StreamRequest {
            switch listener.transparency.direction {
            case .outbound: carrier.request(of: socket, to: destination)
            case .inbound: anybody(at: client, to: destination)
            }
        }
        let destination: Authority
        switch named(original, names) {
        case .success(let authority): destination = authority
        case .failure(let error):
            carrier.refuse(request(to: original), from: socket, error)
            return refuse(socket, error, listener, carrier)
        }
        switch (listener.transparency.direction, listener.transparency.plaintext) {
        case (.inbound, .deny):
            let reason = "plain connections are refused here ('plaintext: deny'): come through the mesh"
            carrier.refuse(request(to: destination), from: socket, StreamError(.denied, reason))
            refuse(socket, StreamError(.denied, "\(client) to \(destination): \(reason)"), listener, carrier)
        case (.outbound, _), (.inbound, .allow): carrier.carry(socket, request(to: destination))
        }
    }

    private static func anybody(at client: IPAddress, to destination: Authority) -> StreamRequest {
        StreamRequest(
            source: .unauthenticated,
            sourceIP: client,
            transport: nil,
            destination: destination,
            now: WallClock.system.seconds
        )
    }

    /// Where it was going.
    private static func original(
        of socket: Socket,
        _ listener: NodeConfiguration.Listener
    ) -> Result<Authority, StreamError> {
        let own = socket.localAddress
        let destination =
            switch listener.transparency.mode {
            case .redirect: socket.originalDestination
            case .tproxy: own
            }
        guard let destination, let address = destination.address else {
            return .failure(StreamError(.loop, "the kernel does not know where this connection was going"))
        }
        let isDirect =
            switch listener.transparency.mode {
            case .redirect: destination == own
            // An address of this machine with the listener's port is the listener. Elsewhere that port is any.
            case .tproxy:
                destination.port == listener.bind.port
                    && (address.isLoopback || InterfaceAddress.all().contains { $0.address == address })
            }
        guard !isDirect else {
            return .failure(
                StreamError(
                    .loop,
                    "it was made to the listener itself, so that it is going nowhere; only rules lead here"
                )
            )
        }
        return .success(Authority(address: address, port: destination.port))
    }

    /// The name that the program has looked up, which policy and routes are about.
    private static func named(_ destination: Authority, _ names: VirtualNames?) -> Result<Authority, StreamError> {
        guard let names, let address = destination.address else { return .success(destination) }
        switch names.meaning(of: address) {
        case .address: return .success(destination)
        case .name(let name):
            return Result { () throws(AddressError) in try Authority(host: name, port: destination.port) }
                .mapError { StreamError(.badRequest, $0.message) }
        case .unknown:
            let reason =
                "stands for no name; a program that keeps addresses for longer than their TTL has it from before"
            return .failure(StreamError(.unreachable, "\(address) \(reason)"))
        }
    }

    private static func refuse(
        _ socket: Socket,
        _ error: StreamError,
        _ listener: NodeConfiguration.Listener,
        _ carrier: StreamCarrier
    ) {
        carrier.peerLog.log(
            .warning,
            "refused",
            of: socket.peerDescription,
            ["listener": "\(listener.name)", "reason": "\(error.message)"]
        )
        socket.reset(error)
    }
}
