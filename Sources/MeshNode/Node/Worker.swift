import H2Transport
import Logging
import MeshIdentity
import Streams

/// The part of a node that lives on one event loop: its streams, its connections to peers, its HBONE servers. Loops share
/// nothing but the immutable ``NodeSnapshot``.
final class Worker {
    let loop: EventLoop
    let live = LiveStreams()
    private let outbound: OutboundStreams
    private let inbound: InboundStreams
    private let server: HBONEServer
    private let logger: Logger

    init(on loop: EventLoop, snapshot: NodeSnapshot, logger: Logger) throws(StreamError) {
        self.loop = loop
        self.logger = logger
        let outbound = OutboundStreams(loop: loop, snapshot: snapshot, live: live, logger: logger)
        let inbound = InboundStreams(loop: loop, snapshot: snapshot, live: live, outbound: outbound, logger: logger)
        self.outbound = outbound
        self.inbound = inbound
        server = try HBONEServer(on: loop, context: snapshot.server, logger: logger) { pending in
            inbound.handle(pending)
        }
    }

    /// Takes over a connection that a listener accepted.
    func accept(_ socket: Socket, by listener: NodeConfiguration.Listener) {
        switch listener.protocol {
        case .hbone:
            socket.limitUnsent(to: 128 << 10)
            socket.detectDeadPeer(unacknowledgedFor: .seconds(20))
            server.accept(socket)
        case .tcp:
            guard let destination = listener.forwardTo else { return socket.reset(.closed(socket)) }
            outbound.carry(socket, to: destination)
        default:
            // Refused when the configuration was loaded.
            socket.reset(.closed(socket))
        }
    }

    /// New streams are decided with `snapshot`; live ones are decided again.
    func take(_ snapshot: NodeSnapshot) {
        outbound.snapshot = snapshot
        outbound.forgetPeers(except: snapshot.configuration.endpoints)
        inbound.snapshot = snapshot
        server.context = snapshot.server
        let cut = live.recheck(with: snapshot.policy)
        if cut > 0 { logger.notice("policy changed: \(cut) streams cut") }
    }

    /// Lets live streams end for up to `deadline`, then cuts them. `completion` is called on the loop.
    func drain(deadline: Duration, completion: @escaping () -> Void) {
        let timer = LoopTimer(on: loop) { [live] in
            live.cutAll(StreamError(.draining, "the node stopped before the stream ended"))
        }
        timer.schedule(after: deadline)
        server.drain(deadline: deadline) { [live, outbound] in
            live.whenEmpty {
                timer.cancel()
                outbound.shutDown()
                completion()
            }
        }
    }
}
