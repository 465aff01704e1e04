public import Logging
public import MeshIdentity
public import Streams

/// Accepts streams from the mesh: verifies who connects, asks an admission hook about each stream, and hands those that
/// it admits to a handler. Safe to use from any task.
///
/// ```swift
/// let listener = try await HBONEListener(
///     bind: SocketAddress(parsing: "0.0.0.0:15008"), credentials: .directory("identity"))
/// try await listener.serve { request in
///     request.peer.namespace == "prod" && request.destination.port == 7 ? .admit : .deny()
/// } handler: { stream in
///     for try await chunk in stream.inbound { try await stream.write(chunk) }
/// }
/// ```
///
/// It listens from the start, so that ``localAddress`` is known; requests wait for ``serve(admit:handler:)`` to come.
public final class HBONEListener: Sendable {
    /// A request that waits for its answer.
    private struct Arrival: Sendable {
        let request: HBONERequest
        let pending: LoopBound<PendingConnect>
    }

    /// Where it listens; the port is the kernel's choice when 0 was asked for.
    public let localAddress: SocketAddress
    private let credential: LiveCredential
    private let group: EventLoopGroup
    private let ownsGroup: Bool
    private let peerLog: PeerLog
    private let listener: LoopBound<Listener>
    private let servers: [LoopBound<ListenerLoop>]
    private let arrivals: AsyncStream<Arrival>
    private let arrive: AsyncStream<Arrival>.Continuation
    private let isServing = Lock(false)
    /// Looks for a credential that has changed, so that connections of whoever is revoked now are cut.
    private let following: Task<Void, Never>?

    /// Reads the credential and starts to listen.
    ///
    /// - Parameters:
    ///   - address: Port 0 lets the kernel choose.
    ///   - credentials: Who we are; a directory is followed when its files are renewed.
    ///   - configuration: What clients are granted.
    ///   - loops: Loops that connections are spread over; they stay the caller's to shut down. nil, the default, starts
    ///     one.
    ///   - logger: Told of refusals, failed handshakes and streams, and renewed credentials.
    /// - Throws: ``MeshIdentity/IdentityError`` for the credential; ``Streams/StreamError`` for the address
    ///   (`addressInUse`) and the configuration.
    public init(
        bind address: SocketAddress,
        credentials: CredentialSource,
        configuration: HBONEServer.Configuration = .defaults,
        loops: EventLoopGroup? = nil,
        logger: Logger = Logger(label: "bootstrap.listener")
    ) async throws {
        let credential = try LiveCredential(credentials, role: .server, logger: logger)
        let group = loops ?? EventLoopGroup(count: 1)
        let (arrivals, arrive) = AsyncStream.makeStream(of: Arrival.self)
        do {
            var servers: [LoopBound<ListenerLoop>] = []
            for loop in group.loops {
                servers.append(
                    try await Self.makeServer(on: loop, credential, configuration, arrive, logger)
                )
            }
            let (all, first, loops) = (servers, group.loops[0], group.loops)
            self.servers = servers
            (listener, localAddress) = try await first.execute {
                let listener = try Listener(bind: address, on: first, spreadOver: loops) { socket in
                    all.first { $0.loop === socket.loop }?.withValue {
                        // As of the last look, of which there is one each second: this is the event loop.
                        $0.server.context = credential.latest.context
                        $0.accept(socket)
                    }
                }
                listener.shortage = DescriptorShortage { logger.warning("\($0)") }
                return (LoopBound(listener, on: first), listener.localAddress)
            }
        } catch {
            if loops == nil { await group.shutDown() }
            throw error
        }
        self.credential = credential
        self.group = group
        self.arrivals = arrivals
        self.arrive = arrive
        peerLog = PeerLog(logger, on: group.loops[0])
        ownsGroup = loops == nil
        following = credential.follow { [servers] version in
            for server in servers {
                server.loop.submit { server.withValue { $0.server.context = version.context } }
            }
        }
    }

    deinit { following?.cancel() }

    /// Our own identity, as the present certificate says.
    public var identity: SPIFFEID { credential.latest.id }

    /// Serves until the task is cancelled, or ``drain(deadline:)`` has let the last stream end. Call once.
    ///
    /// Each request has a task of its own: `admit`, then the answer, then `handler`. When `handler` returns, its stream
    /// is finished and closed; when it throws, the stream is reset and the error logged, and the others go on.
    /// Cancelling the task that serves cancels all of them and cuts the connections.
    ///
    /// - Parameters:
    ///   - admit: Says who may open a stream whereto. nil, the default, admits peers of our own trust domain and
    ///     namespace, for any destination: for a service that ignores the destination, not for one that dials it.
    ///   - handler: Gets the stream after 200 was answered.
    public func serve(
        admit: HBONEAdmissionHook? = nil,
        handler: @escaping @Sendable (HBONEStream) async throws -> Void
    ) async {
        let peerLog = peerLog
        await serve(admit: admit) { stream, request in
            HBONEStream(stream, peer: request.peer)
        } run: { stream in
            do {
                try await stream.scoped(isolation: nil, handler)
            } catch {
                peerLog.log(
                    .info,
                    "stream failed",
                    of: "\(stream.peer)",
                    ["to": "\(stream.request.authority)", "reason": "\(error)"]
                )
            }
        }
    }

    /// As ``serve(admit:handler:)``, for programs that move the bytes on the event loop: relays, bridges.
    ///
    /// - Parameter admit: See ``serve(admit:handler:)``.
    /// - Parameter onStream: Called on the stream's loop right after 200 was answered, before any byte was read. It
    ///   must not block, and from then on owns the stream.
    public func serveOnLoop(
        admit: HBONEAdmissionHook? = nil,
        onStream: @escaping @Sendable (H2Stream, HBONERequest) -> Void
    ) async {
        await serve(admit: admit, onStream) { _ in }
    }

    /// Accepts nothing new and tells the clients so (GOAWAY); streams that are open may end within `deadline`, and are
    /// cut then. Returns when nothing is left; ``serve(admit:handler:)`` returns too.
    public func drain(deadline: Duration) async {
        await stop { loop, completion in loop.drain(deadline: deadline, completion: completion) }
    }

    /// Stops listening and cuts every connection. Idempotent.
    public func close() async {
        await stop { loop, completion in
            loop.server.close()
            completion()
        }
    }

    // MARK: -

    private static func makeServer(
        on loop: EventLoop,
        _ credential: LiveCredential,
        _ configuration: HBONEServer.Configuration,
        _ arrive: AsyncStream<Arrival>.Continuation,
        _ logger: Logger
    ) async throws -> LoopBound<ListenerLoop> {
        try await loop.execute {
            let server = try HBONEServer(
                on: loop,
                context: credential.current.context,
                configuration: configuration,
                logger: logger
            ) { pending in
                guard let peer = pending.peer else { return pending.reject(.denied("no identity")) }
                guard pending.request.tunnelDestination == nil else { return pending.reject(.innerTunnel) }
                let request = HBONERequest(
                    peer: peer,
                    peerCertificate: pending.peerCertificate,
                    destination: pending.destination,
                    remoteAddress: pending.remoteAddress,
                    request: pending.request
                )
                // Bounded by what a connection may have pending.
                let arrival = Arrival(request: request, pending: LoopBound(pending, on: loop))
                if case .terminated = arrive.yield(arrival) {
                    pending.reject(ConnectRejection(StreamError(.draining, "the listener stops")))
                }
            }
            return LoopBound(ListenerLoop(server), on: loop)
        }
    }

    private func serve<Taken: Sendable>(
        admit: HBONEAdmissionHook?,
        _ take: @escaping @Sendable (H2Stream, HBONERequest) -> Taken,
        run: @escaping @Sendable (Taken) async -> Void
    ) async {
        let wasServing = isServing.withLock { isServing in
            defer { isServing = true }
            return isServing
        }
        precondition(!wasServing, "a listener serves once")
        await withDiscardingTaskGroup { tasks in
            for await arrival in arrivals {
                tasks.addTask { await self.answer(arrival, admit, take, run) }
            }
            // Cancelled: clients are cut at once, not when the handlers have noticed.
            if Task.isCancelled { await close() }
        }
    }

    private func answer<Taken: Sendable>(
        _ arrival: Arrival,
        _ admit: HBONEAdmissionHook?,
        _ take: @escaping @Sendable (H2Stream, HBONERequest) -> Taken,
        _ run: @Sendable (Taken) async -> Void
    ) async {
        let (request, pending) = (arrival.request, arrival.pending)
        switch await admit?(request) ?? admitOwnNamespace(request) {
        case .refuse(let rejection):
            peerLog.log(
                .notice,
                "denied",
                of: "\(request.peer)",
                ["to": "\(request.destination)", "status": "\(rejection.status)"]
            )
            pending.loop.submit { pending.withValue { $0.reject(rejection) } }
        case .admit(let headers):
            // nil: the client gave up while the hook was thinking, or the loop has stopped.
            let taken = try? await pending.loop.execute {
                pending.withValue { $0.accept(headers: headers) }.map { take($0, request) }
            }
            if let taken = taken ?? nil { await run(taken) }
        }
    }

    private func admitOwnNamespace(_ request: HBONERequest) -> HBONEAdmission {
        let own = identity
        guard request.peer.trustDomain == own.trustDomain, own.namespace != nil, request.peer.namespace == own.namespace
        else { return .deny("policy") }
        return .admit
    }

    private func stop(
        _ body: @escaping @Sendable (ListenerLoop, @escaping @Sendable () -> Void) -> Void
    ) async {
        let listener = listener
        try? await listener.loop.execute { listener.withValue { $0.close() } }
        await withTaskGroup(of: Void.self) { tasks in
            for server in servers {
                tasks.addTask {
                    await withCheckedContinuation { continuation in
                        let isRunning = server.loop.submitIfRunning {
                            server.withValue { body($0) { continuation.resume() } }
                        }
                        if !isRunning { continuation.resume() }
                    }
                }
            }
        }
        arrive.finish()
        following?.cancel()
        if ownsGroup { await group.shutDown() }
    }
}

/// The listener's part on one event loop. Confined to it.
final class ListenerLoop {
    let server: HBONEServer
    private var isDraining = false
    private var isDrained = false
    private var drained: [() -> Void] = []

    init(_ server: HBONEServer) { self.server = server }

    func accept(_ socket: Socket) {
        socket.apply(.multiplexed(unacknowledgedLimit: .seconds(20)))
        server.accept(socket)
    }

    /// `completion` is called on the loop when no connection is left.
    func drain(deadline: Duration, completion: @escaping () -> Void) {
        guard !isDrained else { return completion() }
        drained.append(completion)
        guard !isDraining else { return }
        isDraining = true
        server.drain(deadline: deadline) { [self] in
            isDrained = true
            let waiting = drained
            drained = []
            for resume in waiting { resume() }
        }
    }
}
