import H2Transport
import Logging
import MeshIdentity
import MeshPaths
import MeshPolicy
import Streams

/// The part of a node that lives on one event loop: its streams, its connections to peers, its HBONE servers. Loops
/// share nothing but the immutable ``NodeSnapshot``.
final class Worker {
    let loop: EventLoop
    let live = LiveStreams()
    private let opener: StreamOpener
    private let carrier: StreamCarrier
    private let server: HBONEServer
    private let stripes: StripeAcceptor
    /// The addresses of names; nil where no listener gives them out.
    private let names: VirtualNames?
    private let nameServer: NameServer
    private var zone: [MeshPolicy.Endpoint] = []
    private let logger: Logger
    private var limit: LoopTimer?
    private var drainDeadline = UInt64.max

    /// - Parameters:
    ///   - loop: Where it lives.
    ///   - snapshot: What holds now.
    ///   - stripes: What all loops of the node have in common.
    ///   - logger: Told of streams and connections.
    init(
        on loop: EventLoop,
        snapshot: NodeSnapshot,
        stripes: StripeDirectory,
        names: VirtualNames?,
        logger: Logger
    ) throws(StreamError) {
        self.loop = loop
        self.logger = logger
        self.names = names
        nameServer = NameServer(on: loop)
        opener = StreamOpener(loop: loop, snapshot: snapshot, logger: logger)
        carrier = StreamCarrier(opener: opener, live: live, logger: logger)
        let inbound = HBONEFront(carrier)
        let server = try HBONEServer(
            on: loop,
            context: snapshot.server,
            configuration: Self.serverConfiguration(snapshot),
            logger: logger
        ) { pending in
            inbound.handle(pending)
        }
        self.server = server
        zone = snapshot.configuration.endpoints.map(\.rule)
        self.stripes = StripeAcceptor(on: loop, directory: stripes) { server.accept($0) }
    }

    private static func serverConfiguration(_ snapshot: NodeSnapshot) -> HBONEServer.Configuration {
        var configuration = HBONEServer.Configuration.defaults
        configuration.http2 = snapshot.configuration.connections.http2(for: .server)
        return configuration
    }

    /// Takes over a connection that a listener accepted.
    func accept(_ socket: Socket, by listener: NodeConfiguration.Listener) {
        switch listener.protocol {
        case .hbone:
            socket.apply(.multiplexed(unacknowledgedLimit: .seconds(20)))
            stripes.accept(socket)
        case .tcp: TCPFront.accept(socket, by: listener, carrier)
        case .socks5: SOCKSFront.accept(socket, by: listener, carrier)
        case .httpProxy: HTTPProxyFront.accept(socket, by: listener, carrier)
        case .transparent: TransparentFront.accept(socket, by: listener, carrier, names)
        case .sni: SNIFront.accept(socket, by: listener, carrier)
        case .tls: TLSFront.accept(socket, by: listener, carrier)
        case .http, .https: HTTPFront.accept(socket, by: listener, carrier)
        case .dns: nameServer.accept(socket, { [self] in zone(of: listener) }, for: listener)
        }
    }

    private func zone(of listener: NodeConfiguration.Listener) -> MeshZone {
        MeshZone(endpoints: zone, names: names ?? VirtualNames(), settings: listener.names)
    }

    /// Answers questions that come as datagrams.
    func answerDatagrams(
        at address: SocketAddress,
        for listener: NodeConfiguration.Listener
    ) throws(StreamError) -> DatagramSocket {
        var socket: DatagramSocket?
        let receiving = try DatagramSocket(bind: address, on: loop, isIPv6Only: true, isShared: true) {
            [self] bytes, ends in
            let asker = ends.peer.address
            nameServer.answer([UInt8](bytes), zone(of: listener), for: listener, from: asker, isStream: false) {
                answer in
                if let answer { socket?.answer(ends, answer) }
            }
        } closed: {
            socket = nil
        }
        socket = receiving
        return receiving
    }

    /// New streams are decided with `snapshot`; live ones are decided again.
    func take(_ snapshot: NodeSnapshot) {
        opener.snapshot = snapshot
        opener.forgetPeers()
        zone = snapshot.configuration.endpoints.map(\.rule)
        server.context = snapshot.server
        do {
            try server.use(Self.serverConfiguration(snapshot))
        } catch {
            logger.error("the settings of connections stay as they were: \(error)")
        }
        let cut = live.recheck(with: snapshot.planner, trust: snapshot.server.trust)
        if cut > 0 { logger.notice("policy changed: \(cut) streams cut") }
    }

    /// Lets live streams end, for as long as they last unless ``limitDraining(to:)`` says otherwise. `completion` is
    /// called on the loop.
    func drain(completion: @escaping () -> Void) {
        carrier.startDraining()
        server.drain(deadline: nil) { [self] in
            live.whenEmpty { [self] in
                limit?.cancel()
                opener.shutDown()
                completion()
            }
        }
    }

    /// Cuts whatever is open after `deadline`; an earlier one that was set before holds.
    func limitDraining(to deadline: Duration) {
        let time = loop.now &+ deadline.nanoseconds
        guard time < drainDeadline else { return }
        drainDeadline = time
        let timer =
            limit
            ?? LoopTimer(on: loop) { [live, server] in
                live.cutAll(StreamError(.draining, "the node stopped before the stream ended"))
                server.close()
                // A peer that does not read must not hold up the end.
                LoopTimer(on: server.loop) { server.abort() }.schedule(after: .seconds(1))
            }
        limit = timer
        timer.schedule(after: deadline)
    }
}
