import H2Transport
import Logging
import MeshIdentity
import MeshPaths
import MeshPolicy
import Platform
import Streams

/// Opens what a ``MeshPolicy/StreamPlan`` says, for whichever front asks: dials an address, or takes the best path to a
/// peer. Keeps the ways to each peer in use. Confined to its loop.
final class StreamOpener {
    /// The far end of a stream.
    struct Opened {
        /// Through a peer: what its path gave, which knows who that proved to be.
        let stream: ByteStream
        /// What carries it to its peer, when it was opened; nil: it was dialled from here.
        let path: PathID?
        /// What was dialled from here.
        var dialled: SocketAddress?
        /// What will be recorded of the stream; nil: nobody wants to know.
        var ticket: StreamTicket?
        /// What is below ``stream``, where that is one request of several; nil: nothing.
        var carriedBy: ByteStream?
        /// Of a stream that outlives its path; nil for the others.
        var opening: StreamOpening?

        /// What leads to the far end.
        var lowest: ByteStream { carriedBy ?? stream }
        /// What carries it now: what can resume may have changed it.
        var currentPath: PathID? { (lowest as? ResumableStream)?.path ?? path }
        /// Who the far end of this very connection proved to be: another server of the destination may be somebody
        /// else. nil: nobody, as over SSH.
        var peer: SPIFFEID? {
            let lowest = lowest
            if lowest is Socket { return nil }
            return (lowest as? ResumableStream)?.peer ?? (lowest as? H2Stream)?.peer ?? BridgedFacts(of: lowest)?.peer
                ?? PeerFacts(of: lowest).identity
        }
        /// What the next node has answered; nil where there is none.
        var response: ConnectResponse? {
            (stream as? H2Stream)?.response ?? (stream as? ResumableStream)?.response
                ?? BridgedFacts(of: stream)?.response
        }

        /// The client has gone before it could be joined with its far end.
        func abandon() {
            stream.reset(StreamError(.closed, "the client gave up"))
            ticket?.giveUp()
        }
    }

    /// Nobody waits any more: a connection that still comes up is closed, and nobody is told.
    typealias Cancellation = () -> Void

    let loop: EventLoop
    private let logger: Logger
    private let peerLog: PeerLog
    private let outages: ServerOutages
    /// The connections that peers hold to this node; nil: none can.
    private let held: HeldConnections?
    /// What streams that outlive their path have in common; nil: there are none.
    let resumptions: Resumptions?
    /// Told of each change of a path to a peer; that one is unreachable or refused, once until a path works again. No
    /// property that is set later: each way to a peer would have to refer to this object weakly, and an object that is
    /// referred to so is counted slowly, with every stream.
    private let onPathChange: ((PathChange) -> Void)?
    var snapshot: NodeSnapshot {
        didSet {
            recent = []
            lastDialled = nil
            for (id, paths) in peers where snapshot.hasNews(of: id, since: oldValue) {
                if let access = snapshot.access(to: id) { paths.use(access) }
            }
            guard snapshot.client !== oldValue.client else { return }
            for peer in peers.values { peer.use(snapshot.client, settings: snapshot.configuration.connections) }
        }
    }
    private var peers: [PeerID: PeerPaths] = [:] {
        didSet { lastPeer = nil }
    }
    /// The one that was asked for last: its identifier is a long text.
    private var lastPeer: (peer: Peer, paths: PeerPaths)?
    /// The plans of late, by ``place(of:)``; empty before the first.
    private var recent: ContiguousArray<StreamPlan?> = []
    /// What was dialled last, and by which plan: it may be dialled again. It follows from the plan, as the plan follows
    /// from the request, until a reload.
    private var lastDialled: (plan: StreamPlan, address: IPAddress, port: UInt16)?

    init(
        loop: EventLoop,
        snapshot: NodeSnapshot,
        outages: ServerOutages = ServerOutages(),
        held: HeldConnections? = nil,
        resumptions: Resumptions? = nil,
        logger: Logger,
        onPathChange: ((PathChange) -> Void)? = nil
    ) {
        self.loop = loop
        self.snapshot = snapshot
        self.logger = logger
        peerLog = PeerLog(logger, on: loop)
        self.outages = outages
        self.held = held
        self.resumptions = resumptions
        self.onPathChange = onPathChange
    }

    /// What is done with `request`, by what holds now. Says what AUDIT and `dryRun` policies have to say.
    ///
    /// A plan follows from its request alone, whose time counts in seconds: who asks for the same within the same
    /// second gets the same one.
    func plan(_ request: StreamRequest) -> StreamPlan {
        if recent.isEmpty { recent = ContiguousArray(repeating: nil, count: Self.recentPlans) }
        let place = Self.place(of: request.destination)
        if let plan = recent[place], plan.request == request {
            report(plan)
            return plan
        }
        let plan = snapshot.planner.plan(request)
        recent[place] = plan
        report(plan)
        return plan
    }

    private static let recentPlans = 64

    private static func place(of destination: Authority) -> Int {
        let host = destination.address.map { Int(truncatingIfNeeded: $0.low) } ?? destination.host.utf8.count
        return (host &* 31 &+ Int(destination.port)) & (recentPlans - 1)
    }

    private func report(_ plan: StreamPlan) {
        let request = plan.request
        for remark in plan.decision.remarks {
            if remark.isAudit {
                // Each match, as the operator has asked for: never left out.
                logger.notice(
                    "\(remark.text)",
                    metadata: ["peer": "\(request.sourceDescription)", "to": "\(request.destination)"]
                )
            } else {
                peerLog.log(.notice, remark.text, of: request.sourceDescription)
            }
        }
    }

    /// Opens the stream of a plan.
    ///
    /// - Parameters:
    ///   - headers: For the CONNECT request of a stream through a peer.
    ///   - completion: Called once, on the loop, unless the returned function is called before; for a refused plan, and
    ///     a peer that is gone, from inside this call.
    func open(
        _ plan: StreamPlan,
        headers: HeaderFields = [:],
        completion: @escaping (Result<Opened, StreamError>) -> Void
    ) -> Cancellation {
        switch plan.outcome {
        case .refused(let refusal):
            completion(.failure(refusal.error))
            return {}
        case .dial(let target, let tls): return dial(target, tls, plan, completion)
        case .peer(let route, _): return open(route, plan, headers, completion)
        case .listen:
            let what = "a peer has this node listen by a CONNECT to \(plan.request.destination), and by nothing else"
            completion(.failure(StreamError(.denied, what)))
            return {}
        }
    }

    private func dial(
        _ target: Authority,
        _ tls: DirectTLS?,
        _ plan: StreamPlan,
        _ completion: @escaping (Result<Opened, StreamError>) -> Void
    ) -> Cancellation {
        let opening = StreamOpening(by: self, plan, completion)
        guard let tls else {
            let dialer = dialer(to: target, opening) { opening.dialled($0) }
            dialer.start()
            return { dialer.cancel() }
        }
        guard let egress = snapshot.egress[tls] else {
            // Between a plan of the old configuration and the snapshot of the new one lies a reload.
            completion(.failure(StreamError(.unreachable, "the endpoint for \(target) is gone")))
            return {}
        }
        let name = plan.serverName(tls, at: target)
        var securing: ByteStream?
        let dialer = dialer(to: target, opening) { result in
            let socket: Socket
            switch result {
            case .failure(let error): return opening.fail(error)
            case .success(let connected): socket = connected
            }
            let dialled = socket.peerAddress
            securing = egress.secure(socket, as: name) { result in
                securing = nil
                switch result {
                case .success(let stream): opening.succeed(Opened(stream: stream, path: nil, dialled: dialled))
                case .failure(let error): opening.fail(error)
                }
            }
        }
        dialer.start()
        return {
            opening.cancel()
            dialer.cancel()
            securing?.reset(StreamError(.closed, "the client gave up"))
        }
    }

    /// Looks the name up once: what is checked is what is dialled.
    private func dialer(
        to target: Authority,
        _ opening: StreamOpening,
        _ completion: @escaping (Result<Socket, StreamError>) -> Void
    ) -> Dialer {
        let plan = opening.plan
        var options = Dialer.Options(timeout: snapshot.configuration.connections.connectTimeout)
        options.socket.resetsUnlessEnded = true
        if target.address == nil, plan.request.source != .localUser {
            options.requester = plan.request.sourceDescription
        }
        let port = target.port
        let dialer = Dialer(
            to: Self.places(of: target, plan),
            on: loop,
            options: options,
            check: { opening.refusal(dialing: $0, port: port) },
            completion: plan.route.announces == nil
                ? completion : { completion($0.flatMap { Self.announce(plan, to: $0) }) }
        )
        if target.address == nil {
            let planner = snapshot.planner
            dialer.judge = { planner.refusal(ofAnswer: $0, for: target.host, in: plan) }
        }
        return dialer
    }

    /// Why a plan that was made by `snapshot` must not dial `address`; nil if it may.
    func refusal(
        dialing address: IPAddress,
        port: UInt16,
        _ plan: StreamPlan,
        by snapshot: NodeSnapshot
    ) -> StreamError? {
        if let last = lastDialled, last.plan === plan, last.address == address, last.port == port { return nil }
        let planner = snapshot.planner
        let refusal = planner.refusal(dialing: address, port: port, for: plan.request, by: plan.route)
        if refusal == nil, snapshot === self.snapshot { lastDialled = (plan, address, port) }
        return refusal
    }

    /// Says who asks, before anything else.
    private static func announce(_ plan: StreamPlan, to socket: Socket) -> Result<Socket, StreamError> {
        guard let version = plan.route.announces, let destination = socket.peerAddress else { return .success(socket) }
        let header = ProxyHeader(of: plan.request, to: destination).bytes(version)
        // The first bytes that an empty socket gets: they fit, or it is broken.
        guard header.withUnsafeBytes({ socket.write($0) }) == .bytes(header.count) else {
            let error = socket.failure ?? StreamError(.closed, "\(destination) does not take the PROXY header")
            socket.reset(error)
            return .failure(error)
        }
        return .success(socket)
    }

    /// A service of this machine listens at the own address that is asked for, or on either loopback address:
    /// `localhost` is both, and many programs take the first one that they find.
    private static func places(of target: Authority, _ plan: StreamPlan) -> Dialer.Destination {
        guard plan.route.isThisMachine else { return .authority(target) }
        var places: [SocketAddress] = []
        if let named = plan.route.ownAddress {
            places = [SocketAddress(named, port: target.port)]
            if named.isLoopback { return .addresses(places) }
        }
        places.append(SocketAddress(.loopbackIPv4, port: target.port))
        places.append(SocketAddress(.loopbackIPv6, port: target.port))
        return .addresses(places)
    }

    private func open(
        _ route: MeshRoute,
        _ plan: StreamPlan,
        _ headers: HeaderFields,
        _ completion: @escaping (Result<Opened, StreamError>) -> Void
    ) -> Cancellation {
        guard let paths = paths(to: route.peer) else {
            // Between a plan of the old configuration and the access of the new one lies a reload.
            completion(.failure(StreamError(.unreachable, "the endpoint for \(route.authority) is gone")))
            return {}
        }
        let opening = StreamOpening(by: self, plan, completion)
        let hasInnerTunnel = headers["x-tun"] != nil
        paths.openStream(
            to: route.authority,
            headers: headers,
            permits: hasInnerTunnel
                ? { opening.refusal(over: $0, hasInnerTunnel: true) }
                : { opening.refusal(over: $0, hasInnerTunnel: false) },
            completion: { opening.opened($0) }
        )
        return { opening.cancel() }
    }

    /// A reload decides about streams that are open, and does not know of those that are being opened: what was planned
    /// before it is decided once more.
    func decidedAgain(
        _ opened: Opened,
        of plan: StreamPlan,
        since before: NodeSnapshot
    ) -> Result<Opened, StreamError> {
        if snapshot === before { return .success(opened) }
        let dialled = opened.dialled.flatMap { peer in peer.address.map { ($0, peer.port) } }
        let request = plan.request.at(WallClock.system.seconds)
        guard let refusal = snapshot.planner.refusal(of: request, over: opened.currentPath, dialled: dialled) else {
            return .success(opened)
        }
        peerLog.log(
            .notice,
            "policy changed while a stream was opened",
            of: request.sourceDescription,
            ["reason": "\(refusal.message)", "to": "\(request.destination)"]
        )
        // Peers learn that policy refused, not which rule did.
        let error = StreamError(.denied, "policy changed while the stream was opened")
        opened.stream.reset(error)
        return .failure(error)
    }

    private func paths(to peer: Peer) -> PeerPaths? {
        if let lastPeer, lastPeer.peer === peer { return lastPeer.paths }
        guard let paths = paths(to: peer.id) else { return nil }
        lastPeer = (peer, paths)
        return paths
    }

    private func paths(to id: PeerID) -> PeerPaths? {
        if let paths = peers[id] { return paths }
        guard let access = snapshot.access(to: id) else { return nil }
        // While a peer cannot be had, each stream that asks for it is told so: only the first time it is a change.
        var failing: PathChangeKind?
        let paths = PeerPaths(
            to: access,
            context: snapshot.client,
            settings: snapshot.configuration.connections,
            on: loop,
            logger: logger,
            outages: outages,
            held: held,
            resumptions: resumptions
        ) { [peerLog, onPathChange] change in
            peerLog.log(.notice, StreamOpener.kind(of: change), of: "\(id)", text: "\(id): \(change)")
            let failure: PathChangeKind? =
                switch change {
                case .using: nil
                case .unreachable: .unreachable
                case .refused: .refused
                case .relaying: failing
                }
            let isNew = failure == nil || failure != failing
            failing = failure
            if isNew { onPathChange?(change) }
        }
        peers[id] = paths
        return paths
    }

    /// What a line says of those that were left out.
    private static func kind(of change: PathChange) -> String {
        switch change {
        case .using: "the path changed"
        case .relaying: "the path goes through the agent"
        case .unreachable: "the peer is unreachable"
        case .refused: "the peer did not prove who it is"
        }
    }

    /// How the ways to each peer stand that was asked for.
    var reports: [(peer: PeerID, paths: [PathReport])] { peers.map { ($0.key, $0.value.report) } }

    /// Drops the peers that no endpoint leads to after a reload, with their streams. A peer whose own element of the
    /// configuration says what it said before stays, wherever that stands now.
    func forgetPeers() {
        if snapshot.keepsPeers { return }
        for (id, peer) in peers where !snapshot.leads(to: id) {
            peer.shutDown()
            peers[id] = nil
        }
    }

    func networkChanged(_ change: NetworkChange) {
        for peer in Array(peers.values) { peer.networkChanged(change) }
    }

    func shutDown() {
        for peer in peers.values { peer.shutDown() }
        peers = [:]
    }
}
