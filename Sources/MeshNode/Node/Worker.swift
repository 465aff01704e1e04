import H2Transport
import Logging
import MeshIdentity
import MeshPaths
import MeshPolicy
import Platform
import Streams

/// The part of a node that lives on one event loop: its streams, its connections to peers, its HBONE servers. Loops
/// share nothing but the immutable ``NodeSnapshot``.
final class Worker {
    let loop: EventLoop
    let live: LiveStreams
    private let opener: StreamOpener
    let records: StreamRecords
    private let carrier: StreamCarrier
    /// The same for each listener that has accepted something.
    private var carriers: [FrontName: StreamCarrier] = [:]
    /// That of the listener which accepted last.
    private var lastCarrier: StreamCarrier?
    /// By listener.
    private var frontNames: [String: FrontName] = [:]
    /// By listener.
    private var gates: [String: HBONEGate] = [:]
    /// Of listeners that are others by now.
    private var formerGates: [HBONEGate] = []
    private let server: HBONEServer
    private let stripes: StripeAcceptor
    private let resumptions: Resumptions
    private let gateways: GatewayConnections
    let held: HeldConnections
    private let allNames: VirtualNames
    /// The addresses of names; nil where no listener gives them out.
    private var names: VirtualNames?
    private let nameServer: NameServer
    private var zone: [EndpointTable] = []
    private let logger: Logger
    private var limit: LoopTimer?
    private var drainDeadline = UInt64.max

    /// - Parameters:
    ///   - loop: Where it lives.
    ///   - snapshot: What holds now.
    ///   - stripes: What all loops of the node have in common.
    ///   - resumptions: Likewise.
    ///   - names: Likewise.
    ///   - outages: Likewise.
    ///   - held: Likewise.
    ///   - ports: Likewise.
    ///   - place: Of the loop, among those of the node.
    ///   - filter: What the program wants to see of streams.
    ///   - logger: Told of streams and connections.
    init(
        on loop: EventLoop,
        snapshot: NodeSnapshot,
        stripes: StripeDirectory,
        resumptions: ResumptionDirectory,
        names: VirtualNames,
        outages: ServerOutages,
        held: HeldDirectory,
        ports: PeerPorts,
        place: (number: Int, count: Int) = (0, 1),
        filter: StreamFilterChoice? = nil,
        logger: Logger
    ) throws(StreamError) {
        self.loop = loop
        live = LiveStreams(filters: filter.map { StreamFilters($0, on: loop) })
        self.logger = logger
        allNames = names
        nameServer = NameServer(on: loop, logger: logger)
        let records = StreamRecords(on: loop, number: place.number, of: place.count)
        self.records = records
        let resumable = Resumptions(
            on: loop,
            directory: resumptions,
            number: UInt8(truncatingIfNeeded: place.number),
            timeout: snapshot.configuration.connections.resumeTimeout,
            logger: logger
        )
        resumable.planner = snapshot.planner
        resumable.serve()
        self.resumptions = resumable
        let connections = HeldConnections(
            on: loop,
            directory: held,
            trust: snapshot.server.trust,
            settings: snapshot.configuration.connections,
            logger: logger
        )
        self.held = connections
        opener = StreamOpener(
            loop: loop,
            snapshot: snapshot,
            outages: outages,
            held: connections,
            resumptions: resumable,
            logger: logger
        ) { change in
            switch change {
            case .using(let path, .some(let before), _, _):
                records.count(.switched(from: before.transport, to: path.transport))
            case .using(let path, nil, _, _): records.count(.chosen(path.transport))
            case .unreachable: records.count(.unreachable)
            case .refused: records.count(.refused)
            case .relaying: break
            }
        }
        carrier = StreamCarrier(opener: opener, live: live, ports: ports, records: records, logger: logger)
        let inbound = HBONEFront(carrier)
        let server = try HBONEServer(
            on: loop,
            context: snapshot.inbound,
            configuration: Self.serverConfiguration(snapshot, of: resumptions),
            logger: logger
        ) { pending in
            inbound.handle(pending)
        }
        self.server = server
        server.onReverse = { connections.accept($0) }
        inbound.onNested = { [weak server] in
            if let server { server.accept($0) } else { $0.reset(.closed($0)) }
        }
        gateways = GatewayConnections(on: loop, place: place, server: server, logger: logger)
        (zone, self.names) = Self.naming(snapshot, names)
        self.stripes = StripeAcceptor(on: loop, directory: stripes) { server.accept($0, from: $1) }
        useRecords(snapshot)
    }

    private static func naming(
        _ snapshot: NodeSnapshot,
        _ names: VirtualNames
    ) -> ([EndpointTable], VirtualNames?) {
        let isServed = snapshot.configuration.listeners.contains { $0.protocol == .dns }
        guard isServed else { return ([], nil) }
        return (snapshot.tables, names)
    }

    /// What this loop has to tell.
    var report: WorkerReport {
        live.eachRecorded { records.account($0, sent: $1, received: $2) }
        return WorkerReport(
            fronts: live.adding(to: records.fronts),
            pathChanges: records.pathChanges,
            peers: opener.reports.map {
                WorkerReport.PeerReport(
                    name: $0.peer.name,
                    paths: $0.paths,
                    traffic: records.traffic[$0.peer] ?? [:]
                )
            },
            newcomers: carrier.newcomers.count,
            held: held.reports,
            gateways: gateways.reports
        )
    }

    /// Streams that are open, as JSON, and how many there are.
    func liveStreams(upTo limit: Int) -> (total: Int, streams: [[UInt8]]) {
        var streams: [[UInt8]] = []
        let now = EventLoop.monotonicTime()
        live.eachRecorded { ticket, sent, received in
            guard streams.count < limit else { return }
            var json = JSONWriter()
            ticket.writeLive(sent: sent, received: received, now: now, into: &json)
            streams.append(json.take())
        }
        return (live.count, streams)
    }

    func networkChanged(_ change: NetworkChange) {
        opener.networkChanged(change)
        gateways.networkChanged(change)
    }

    var credential: Credential { opener.snapshot.credential }

    /// What holds now.
    var snapshot: NodeSnapshot { opener.snapshot }

    private static func serverConfiguration(
        _ snapshot: NodeSnapshot,
        of directory: ResumptionDirectory
    ) -> HBONEServer.Configuration {
        var configuration = HBONEServer.Configuration.defaults
        configuration.http2 = snapshot.configuration.connections.http2(for: .server)
        let isResumable = snapshot.configuration.connections.resumable
        configuration.http2.process = isResumable ? directory.process : 0
        return configuration
    }

    /// Takes over a connection that a listener accepted.
    func accept(_ socket: Socket, by listener: NodeConfiguration.Listener, isAnnounced: Bool = false) {
        if !isAnnounced { Self.watch(socket, of: listener) }
        let carrier = carrier(of: listener)
        if listener.trustedProxies != nil, !isAnnounced {
            return ProxyProtocol.read(from: socket, by: listener, carrier) { [self] in
                accept($0, by: listener, isAnnounced: true)
            }
        }
        switch listener.protocol {
        case .hbone:
            socket.apply(.multiplexed(unacknowledgedLimit: .seconds(20)))
            guard listener.gateway != nil else { return stripes.accept(socket, from: frontName(of: listener)) }
            gate(of: listener)?.accept(socket)
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

    /// A client on another machine can vanish without a word, and its stream would stay for ever; not so one on this.
    private static func watch(_ socket: Socket, of listener: NodeConfiguration.Listener) {
        guard listener.protocol != .hbone, socket.peerAddress?.isLoopback == false else { return }
        var options = SocketOptions.defaults
        options.probesWhenIdle = true
        socket.apply(options)
    }

    /// Where nobody wants to know of streams, it does not matter where they come in.
    private func carrier(of listener: NodeConfiguration.Listener) -> StreamCarrier {
        guard records.isOn || live.filters != nil, listener.protocol != .hbone else { return carrier }
        // Texts as short as most names are compared at once, and hashed at length.
        if let last = lastCarrier, last.front.listener == listener.name,
            last.front.protocol == listener.protocol.rawValue
        {
            return last
        }
        let front = frontName(of: listener)
        let carrier = carriers[front] ?? StreamCarrier(carrier, at: front)
        carriers[front] = carrier
        lastCarrier = carrier
        return carrier
    }

    /// nil: its name has come to mean something else.
    private func gate(of listener: NodeConfiguration.Listener) -> HBONEGate? {
        if let gate = gates[listener.name] {
            if gate.isFor(listener) { return gate }
            if !gate.isUnused { formerGates.append(gate) }
            gates[listener.name] = nil
        }
        guard let rules = snapshot.gateways[listener.name] else { return nil }
        do throws(StreamError) {
            let front = frontName(of: listener)
            let gate = try HBONEGate(
                listener,
                rules: rules,
                carrier: StreamCarrier(carrier, at: front),
                configuration: Self.serverConfiguration(snapshot, of: resumptions.directory)
            )
            gates[listener.name] = gate
            return gate
        } catch {
            logger.error("listener '\(listener.name)' serves nobody: \(error)")
            return nil
        }
    }

    private func useRecords(_ snapshot: NodeSnapshot) {
        records.use(snapshot.accessLog, isCounting: snapshot.configuration.hasServices)
    }

    /// The same object for as long as the listener is what it is.
    private func frontName(of listener: NodeConfiguration.Listener) -> FrontName {
        if let known = frontNames[listener.name], known.protocol == listener.protocol.rawValue { return known }
        let name = FrontName(listener.name, protocol: listener.protocol.rawValue)
        frontNames[listener.name] = name
        return name
    }

    private func zone(of listener: NodeConfiguration.Listener) -> MeshZone {
        MeshZone(tables: zone, names: allNames, settings: listener.names)
    }

    /// Answers questions that come as datagrams.
    func answerDatagrams(
        at address: SocketAddress,
        for listener: NodeConfiguration.Listener
    ) throws(StreamError) -> DatagramSocket {
        var socket: DatagramSocket?
        let receiving = try DatagramSocket(bind: address, on: loop, isIPv6Only: true, isShared: true) {
            [self] bytes, ends in
            // A listener that a reload adds answers once the reload is complete; until then, the names may lie
            // elsewhere.
            guard names != nil else { return }
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
        let asking = Self.listenersAskingForTokens(snapshot, after: opener.snapshot)
        opener.snapshot = snapshot
        resumptions.timeout = snapshot.configuration.connections.resumeTimeout
        resumptions.planner = snapshot.planner
        useRecords(snapshot)
        opener.forgetPeers()
        if !snapshot.keepsPeers { records.forgetPeers { snapshot.leads(to: $0) } }
        records.rulesChanged()
        (zone, names) = Self.naming(snapshot, allNames)
        server.context = snapshot.inbound
        held.use(
            identities: snapshot.holders,
            trust: snapshot.server.trust,
            settings: snapshot.configuration.connections
        )
        gateways.use(snapshot)
        formerGates.removeAll { $0.isUnused }
        let allGates = Array(gates.values) + formerGates
        for gate in allGates { gate.takeSnapshot() }
        do {
            let configuration = Self.serverConfiguration(snapshot, of: resumptions.directory)
            try server.use(configuration)
            for gate in allGates { try gate.use(configuration) }
        } catch {
            logger.error("the settings of connections stay as they were: \(error)")
        }
        // Whoever comes again is asked.
        if !asking.isEmpty {
            server.forEachConnection { connection in
                guard let front = connection.origin as? FrontName, asking.contains(front.listener) else { return }
                connection.drain(deadline: nil)
            }
        }
        let cut = live.recheck(with: snapshot.planner, trust: snapshot.server.trust)
        if cut > 0 { logger.notice("policy changed: \(cut) streams cut") }
        live.rulesChanged()
    }

    /// Listeners that ask for a token now, and let members of the mesh in without one before.
    private static func listenersAskingForTokens(
        _ snapshot: NodeSnapshot,
        after previous: NodeSnapshot
    ) -> Set<String> {
        let plain = previous.configuration.listeners.filter { $0.protocol == .hbone && $0.gateway == nil }
        let asking = snapshot.configuration.listeners.filter { $0.protocol == .hbone && $0.tokens != nil }
        return Set(plain.map(\.name)).intersection(asking.map(\.name))
    }

    /// Lets live streams end, for as long as they last unless ``limitDraining(to:)`` says otherwise. `completion` is
    /// called on the loop.
    func drain(completion: @escaping () -> Void) {
        live.startDraining()
        gateways.stop()
        held.drain()
        drain(gates.values + formerGates) { [self] in
            server.drain(deadline: nil) { [self] in
                live.whenEmpty { [self] in
                    // Streams of other loops may go over connections of this one.
                    held.whenEmpty { [self] in
                        carrier.servers.close()
                        opener.shutDown()
                        held.shutDown()
                        resumptions.shutDown()
                        records.flush()
                        completion()
                    }
                }
            }
        }
        // All of them are told at once, whoever is waited for first.
        server.drain(deadline: nil) {}
    }

    private func drain(_ gates: [HBONEGate], completion: @escaping () -> Void) {
        var left = gates.count
        guard left > 0 else { return completion() }
        for gate in gates {
            gate.drain {
                left -= 1
                if left == 0 { completion() }
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
            ?? LoopTimer(on: loop) { [live, server, held, weak self] in
                live.cutAll(StreamError(.draining, "the node stopped before the stream ended"))
                let gates = self.map { $0.gates.values + $0.formerGates } ?? []
                // Peers are told of that first: they would ask for what they take for lost on the way.
                server.loop.later {
                    server.close()
                    for gate in gates { gate.close() }
                }
                // A peer that does not read must not hold up the end.
                LoopTimer(on: server.loop) {
                    server.abort()
                    held.shutDown()
                    for gate in gates { gate.abort() }
                    server.loop.giveUpDepartures()
                }.schedule(after: .seconds(1))
            }
        limit = timer
        timer.schedule(after: deadline)
    }
}
