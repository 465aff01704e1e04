import H2Transport
import Logging
import MeshIdentity
import MeshPaths
import MeshPolicy
import Platform
import Streams

/// What all fronts have in common: a request becomes a plan, a plan a stream, and a relay joins that with the client.
/// Confined to its loop.
///
/// ```
///   accepted socket ─→ front: handshake ─→ StreamRequest ─┐
///                                                         ├─→ plan ─→ open ─→ front: answer ─→ relay
/// ```
///
/// A front is a file of this folder and a line in ``Worker/accept(_:by:)``. One that has nothing to say to its client
/// calls ``carry(_:_:early:)``; one that answers calls ``open(_:headers:completion:)``, writes what its protocol has
/// for the result, and hands what it has read beyond the handshake to ``join(_:early:_:_:)``. Streams that are joined
/// here are decided again when policy changes, and waited for when the node drains.
final class StreamCarrier {
    let opener: StreamOpener
    let live: LiveStreams
    let logger: Logger
    /// For what a client or a peer can cause as often as it likes.
    let peerLog: PeerLog
    /// The node takes nothing new: a connection that could have another request ends after this one.
    var isDraining: Bool { live.isDraining }
    /// Clients that have not said yet what they want.
    let newcomers: Newcomers
    /// Sessions with workloads that speak HTTP/2.
    let servers: HTTP2Servers
    /// Those on which the node listens for its peers, of all loops.
    let ports: PeerPorts
    /// What is told of each stream.
    let records: StreamRecords
    /// Where its streams come in.
    let front: FrontName

    init(opener: StreamOpener, live: LiveStreams, ports: PeerPorts, records: StreamRecords, logger: Logger) {
        self.opener = opener
        self.live = live
        self.ports = ports
        self.records = records
        self.logger = logger
        peerLog = PeerLog(logger, on: opener.loop)
        newcomers = Newcomers()
        servers = HTTP2Servers()
        front = FrontName("hbone", protocol: "hbone")
    }

    /// The same for the streams of one listener.
    init(_ other: StreamCarrier, at front: FrontName) {
        opener = other.opener
        live = other.live
        ports = other.ports
        records = other.records
        logger = other.logger
        peerLog = other.peerLog
        newcomers = other.newcomers
        servers = other.servers
        self.front = front
    }

    var loop: EventLoop { opener.loop }
    /// What holds now.
    var snapshot: NodeSnapshot { opener.snapshot }

    /// Who may use a listener.
    enum Access {
        case everybody
        case users(PasswordCheck)
        case tokens(TokenCheck)
        /// It should have users or tokens, and has none: its listener has gone, or has become another one.
        case nobody

        /// Whether the same come in.
        func isSame(as other: Access) -> Bool {
            switch (self, other) {
            case (.everybody, .everybody), (.nobody, .nobody): true
            case (.users(let check), .users(let otherCheck)): check.isSame(as: otherCheck)
            default: false
            }
        }
    }

    /// What holds now: ask for each request, since a reload may change it.
    func access(to listener: NodeConfiguration.Listener) -> Access {
        if let check = snapshot.passwords[listener.name] { return .users(check) }
        if let check = snapshot.tokens[listener.name] { return .tokens(check) }
        let isOpen = listener.users == nil && listener.tokens == nil && listener.bind.address.isLoopback
        return isOpen ? .everybody : .nobody
    }

    /// Counts a client that has not said yet what it wants.
    ///
    /// - Parameter drop: Ends it, when too many others wait.
    func admit(from source: IPAddress, _ drop: @escaping () -> Void) -> Newcomers.Key {
        let (key, isCrowded) = newcomers.add(drop)
        if isCrowded { peerLog.log(.warning, "too many clients that say nothing", of: "\(source)") }
        return key
    }

    /// What a local listener asks for in the name of who has connected to it.
    func request(of client: Socket, to destination: Authority, details: RequestDetails? = nil) -> StreamRequest {
        StreamRequest(
            source: .localUser,
            sourceIP: client.peerAddress?.address ?? .loopbackIPv4,
            transport: nil,
            destination: destination,
            details: details,
            now: WallClock.system.seconds
        )
    }

    /// Plans the stream and opens it; says in the log why there is none.
    ///
    /// - Parameters:
    ///   - client: Who asks, for the record of a stream that is refused.
    ///   - completion: Called once, on the loop, unless the returned function is called before; for a refused request
    ///     from inside this call. Why it was refused is for this side's log and for clients of this machine, not for
    ///     peers.
    func open(
        _ request: StreamRequest,
        from client: ByteStream? = nil,
        headers: HeaderFields = [:],
        completion: @escaping (Result<StreamOpener.Opened, StreamError>) -> Void
    ) -> StreamOpener.Cancellation {
        open(opener.plan(request), from: client, headers: headers, completion: completion)
    }

    /// The same, for what is planned already.
    func open(
        _ plan: StreamPlan,
        from client: ByteStream? = nil,
        headers: HeaderFields = [:],
        completion: @escaping (Result<StreamOpener.Opened, StreamError>) -> Void
    ) -> StreamOpener.Cancellation {
        let ticket = records.begin(plan, at: front)
        if let ticket, let client { ticket.client = Self.address(of: client) }
        var headers = headers
        if case .peer = plan.outcome {
            if headers.isEmpty {
                headers = snapshot.answer
            } else if let baggage = snapshot.baggage {
                headers.append("baggage", baggage)
            }
        }
        guard let ticket else {
            return opener.open(plan, headers: headers) { [self] result in
                if case .failure(let error) = result { report(error, to: plan.request.destination) }
                completion(result)
            }
        }
        let cancel = opener.open(plan, headers: headers) { [self] result in
            switch result {
            case .success(var opened):
                note(&opened, ticket)
                completion(.success(opened))
            case .failure(let error):
                report(error, to: plan.request.destination)
                ticket.refuse(error)
                completion(.failure(error))
            }
        }
        if ticket.isOver { return cancel }
        return {
            cancel()
            ticket.giveUp()
        }
    }

    /// The far end of the ticket's stream is there.
    func note(_ opened: inout StreamOpener.Opened, _ ticket: StreamTicket) {
        opened.ticket = ticket
        ticket.open(over: opened.currentPath, dialled: opened.dialled, peer: opened.peer)
        // What was dialled from here, as most of what comes to this node is, has none of that.
        if opened.stream is Socket { return }
        let resumable = opened.stream as? ResumableStream
        // The node at its other end knows the same: no field has to say it.
        if ticket.trace == nil {
            ticket.trace =
                (opened.stream as? H2Stream)?.ownTrace ?? resumable?.ownTrace ?? BridgedFacts(of: opened.stream)?.trace
        }
        if let answer = opened.response?.headers["baggage"] {
            var metadata = ticket.metadata ?? StreamMetadata()
            metadata.answer = answer
            ticket.metadata = metadata
        }
        resumable?.onResumption = { [logger] stream in
            ticket.resumed(stream.history, over: stream.path)
            Self.tell(stream, plan: ticket.plan, logger)
        }
    }

    private static func tell(_ stream: ResumableStream, plan: StreamPlan, _ logger: Logger) {
        logger.info(
            "stream resumed",
            metadata: [
                "to": "\(plan.request.destination)", "path": "\(stream.path?.description ?? "")",
                "reason": "\(stream.history.lastReason ?? "")",
            ]
        )
    }

    /// A stream that a front refuses, without asking what becomes of it.
    func refuse(_ request: StreamRequest, from client: ByteStream, _ error: StreamError) {
        guard records.isOn, let ticket = records.begin(opener.plan(request), at: front) else { return }
        ticket.client = Self.address(of: client)
        ticket.refuse(error)
    }

    /// With its port: of a connection, of what TLS in it carries, or of whoever asks a proxy.
    private static func address(of client: ByteStream) -> SocketAddress? {
        if let socket = client as? Socket { return socket.peerAddress }
        if let exchanges = client as? HTTPServerStream { return exchanges.clientAddress }
        return PeerFacts(of: client).address
    }

    /// Whether what `plan` allows may use a stream that another plan for the same destination has opened: it would take
    /// the same way, and everything that was decided about that way holds for it.
    func mayGoOn(_ plan: StreamPlan, on opened: StreamOpener.Opened, of earlier: StreamPlan) -> Bool {
        if plan === earlier { return true }
        guard plan.outcome == earlier.outcome else { return false }
        if let path = opened.currentPath { return plan.refusal(over: path) == nil }
        guard let dialled = opened.dialled, let address = dialled.address else { return true }
        return snapshot.planner.refusal(dialing: address, port: dialled.port, for: plan.request) == nil
    }

    /// Says in the log why there is no stream.
    func report(_ error: StreamError, to destination: Authority) {
        peerLog.log(
            .warning,
            "no stream",
            of: "\(destination)",
            label: "to",
            text: "no stream to \(destination): \(error)"
        )
    }

    /// Joins a client with its far end.
    ///
    /// - Parameters:
    ///   - early: What the client has sent already, which the far end gets first; at most 256 KiB.
    ///   - certificate: Which the client has shown to a front; the stream is cut when that is revoked.
    ///   - use: For a stream that has one request after the other.
    func join(
        _ client: ByteStream,
        early: [UInt8] = [],
        certificate: CertificateName? = nil,
        _ opened: StreamOpener.Opened,
        _ request: StreamRequest,
        use: StreamUse? = nil
    ) {
        // Revoked while the stream was opened, when nobody knew of it.
        if let certificate, case .peer(let peer) = request.source,
            let objection = snapshot.server.trust.objection(to: certificate, of: peer)
        {
            let reason = StreamError(.authentication, objection)
            opened.stream.reset(reason)
            opened.ticket?.refuse(reason)
            return client.reset(reason)
        }
        if let ticket = opened.ticket, ticket.client == nil { ticket.client = Self.address(of: client) }
        live.relay(
            client,
            early: early,
            certificate: certificate,
            opened,
            for: request,
            at: front,
            use: use
        ) { [self] result in
            guard let failure = result.failure else { return }
            let facts: Logger.Metadata = [
                "to": "\(request.destination)", "sent": "\(result.bytesForward)",
                "received": "\(result.bytesBackward)", "reason": "\(failure)",
            ]
            // What the client has got may be a part only, and it is the destination that does not say so: each time.
            if failure.code == .truncated, result.endedBy == .second {
                peerLog.log(.warning, "stream cut", of: "\(request.destination)", label: "to", facts)
                return
            }
            // A server of TLS 1.3 says only now that it does not want this side's certificate, or misses one.
            logger.log(
                level: failure.code == .authentication ? .warning : .info,
                "stream cut",
                metadata: facts
            )
        }
    }

    /// Opens the stream and joins the client with it; resets the client when there is none.
    func carry(
        _ client: ByteStream,
        _ request: StreamRequest,
        early: [UInt8] = [],
        certificate: CertificateName? = nil
    ) {
        _ = open(request, from: client) { [self] result in
            switch result {
            case .success(let opened): join(client, early: early, certificate: certificate, opened, request)
            case .failure(let error): client.reset(error)
            }
        }
    }
}
