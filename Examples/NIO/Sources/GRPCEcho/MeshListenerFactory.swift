import GRPCNIOTransportHTTP2Posix
import H2Transport
import H2TransportNIO
import NIOCore
import NIOPosix

/// Lets a gRPC server accept CONNECT streams of the mesh: `HTTP2ServerTransport.Custom(listenerFactory:)` takes it.
///
/// gRPC wants a listening channel whose reads are connections. Here nothing listens twice: a channel on one end of a
/// socket pair, on which no byte ever moves, carries the channels that the bridge makes of the streams.
public struct MeshListenerFactory: HTTP2ServerTransport.ListenerFactory {
    public let eventLoopGroup: any EventLoopGroup
    private let listener: HBONEListener
    private let admit: HBONEAdmissionHook?

    public init(_ listener: HBONEListener, on group: any EventLoopGroup, admit: HBONEAdmissionHook? = nil) {
        self.listener = listener
        self.admit = admit
        eventLoopGroup = group
    }

    public func makeListeningChannel(
        listenerConfigurator: HTTP2ServerTransport.ListenerConfigurator,
        connectionConfigurator: HTTP2ServerTransport.ConnectionConfigurator
    ) async throws -> NIOAsyncChannel<Connection, Never> {
        var ends: [Int32] = [-1, -1]
        guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &ends) == 0 else {
            throw IOError(errnoCode: errno, reason: "socketpair")
        }
        let farEnd = ends[1]
        let accepting = try await ClientBootstrap(group: eventLoopGroup).withConnectedSocket(ends[0]) { channel in
            listenerConfigurator.configure(channel: channel).flatMapThrowing {
                try channel.pipeline.syncOperations.addHandler(Acceptor())
                return try NIOAsyncChannel<Connection, Never>(wrappingChannelSynchronously: channel)
            }
        }
        let serving = Task {
            await listener.serveChannels(on: eventLoopGroup, admit: admit) { child, _ in
                connectionConfigurator.configure(channel: child, tls: .none).map { (child, $0) }
            } handler: { child, connection in
                let channel = accepting.channel
                // In two steps, as a server channel does it: gRPC's quiescing handler has to see the channel.
                try? await channel.eventLoop.submit {
                    try channel.pipeline.syncOperations.handler(type: Acceptor.self).configured[.init(child)] =
                        connection
                    channel.pipeline.syncOperations.fireChannelRead(NIOAny(child))
                    channel.pipeline.syncOperations.fireChannelReadComplete()
                }.get()
            }
            // The listener has been drained: the server's accept loop ends.
            try? await accepting.channel.close().get()
        }
        accepting.channel.closeFuture.whenComplete { _ in
            serving.cancel()
            close(farEnd)
        }
        return accepting
    }

    public typealias Connection = HTTP2ServerTransport.ConnectionConfigurator.ConnectionChannel

    /// Turns accepted channels into configured connections. Confined to the event loop of its channel.
    private final class Acceptor: ChannelInboundHandler {
        typealias InboundIn = any Channel
        typealias InboundOut = Connection

        var configured: [ObjectIdentifier: Connection] = [:]

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            if let connection = configured.removeValue(forKey: .init(unwrapInboundIn(data))) {
                context.fireChannelRead(wrapInboundOut(connection))
            }
        }
    }
}
