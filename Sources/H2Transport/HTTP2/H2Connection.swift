import CLinux
package import MeshIdentity
import Platform
package import Streams

/// Told what happens on an ``H2Connection``. Called on the connection's loop, never from inside one of its methods.
package protocol H2ConnectionDelegate: AnyObject {
    /// Server: a client asks for a tunnel. Answer it, now or later.
    func connection(_ connection: H2Connection, received request: PendingConnect)
    /// Server of ``H2Service/exchanges``: a client asks for something. Answer it, now or later.
    func connection(_ connection: H2Connection, received exchange: H2Stream)
    /// The peer takes no more streams on this connection (GOAWAY); those that are open go on.
    func connectionIsDraining(_ connection: H2Connection)
    /// A client may open more streams than before: one ended, or the peer raised its limit. A server that has dialled:
    /// the peer speaks HTTP/2.
    func connectionHasCapacity(_ connection: H2Connection)
    /// The connection has reached ``H2Configuration/Age/maximum``. By default it is retired at once; a client may first
    /// make the one that replaces it, and then call ``H2Connection/retire()``.
    func connectionIsTooOld(_ connection: H2Connection)
    /// The connection is gone; `reason` is nil when it was closed with nothing left to do. Its streams have been told.
    func connection(_ connection: H2Connection, closed reason: StreamError?)
}

extension H2ConnectionDelegate {
    package func connection(_ connection: H2Connection, received request: PendingConnect) { request.reject(.denied()) }
    package func connection(_ connection: H2Connection, received exchange: H2Stream) {
        exchange.reset(StreamError(.closed, "nobody serves this"))
    }
    package func connectionIsDraining(_ connection: H2Connection) {}
    package func connectionHasCapacity(_ connection: H2Connection) {}
    package func connectionIsTooOld(_ connection: H2Connection) { connection.retire() }
}

/// HTTP/2 (RFC 9113) over any byte stream: CONNECT tunnels, and requests with a body. nghttp2 is the engine: it turns
/// bytes into frames and back and never touches a socket.
///
/// ```
///   lower.read ─ 256 KiB ─→ nghttp2_session_mem_recv ─→ chunks by stream ─ one write per stream ─→ sinks    (+Input)
///   streams ─ straight into staging, 256 KiB of frames ─→ one lower.write per turn                           (+Output)
/// ```
///
/// What it decides is decided by values without I/O, in the folder State: how far its life has come, when it reads,
/// what it allows the peer. This class joins them to nghttp2, to the layer below and to the loop.
///
/// Confined to its event loop. The owner keeps it alive; open streams do as well.
package final class H2Connection: StreamObserver, TurnTask {
    package typealias Role = H2Role

    enum Event {
        case writable(H2Stream)
        case sourceEnded(H2Stream)
        case sourceFailed(H2Stream)
        case readingEnded(H2Stream)
        case brokeRule(H2Stream)
        case writingRefused(H2Stream)
        case reset(H2Stream, HTTP2ErrorCode)
        case closed(H2Stream, HTTP2ErrorCode)
        case goAway
        /// The first of two steps of ``drain(deadline:completion:)`` was sent.
        case announcedGoAway
        case pong(UInt64)
        case settings
        case overMemory
        case requestsReady
    }

    /// Timers, each made when it is first needed.
    struct Timers {
        var keepAlive: LoopTimer?
        var request: LoopTimer?
        var drain: LoopTimer?
        var age: LoopTimer?
        var metrics: LoopTimer?
        /// Looks at the streams; goes on after the end while streams still hold something.
        var watch: LoopTimer?
    }

    package let loop: EventLoop
    package let role: Role
    /// What clients may ask for, where this is a server.
    let service: H2Service
    package let configuration: H2Configuration
    /// What the layer below knows of the peer.
    let facts: PeerFacts
    package weak var delegate: (any H2ConnectionDelegate)?
    package internal(set) var counters = H2ConnectionCounters()

    let lower: ByteStream
    /// nil once the connection is closed.
    var session: NGHTTP2Session?
    /// nghttp2 is on the stack: it must be neither entered nor freed.
    var isInLibrary = false
    var life = ConnectionLife()
    var drainDeadline = DrainDeadline()

    /// Every stream nghttp2 knows, by identifier.
    var streams = StreamTable<H2Stream>()
    /// Streams that HTTP/2 is done with, and whose last bytes have not been read.
    var lingering: [ObjectIdentifier: H2Stream] = [:]
    /// Streams whose head has come. They are served before all other events, so that the owner of a stream is there
    /// before its bytes are delivered.
    var heads = EventQueue<H2Stream>()
    /// What is being sent of a head.
    var block = HeaderBlock()
    var events = EventQueue<Event>()

    var input = InputGate()
    /// What was read from the layer below before there was a connection.
    var early: [UInt8]
    var batch = InputBatch()
    var output: OutputStaging
    var schedule = SendSchedule<H2Stream>()
    /// When the last byte came from the peer, on the loop's clock.
    package internal(set) var lastReceived: UInt64
    /// When the last byte went to it.
    package internal(set) var lastSent: UInt64

    var window: ConnectionWindow
    var peerWindow = PeerWindow()
    var roundTrip = RoundTrip()
    let settingsSentAt: UInt64
    var flood: FloodGuard
    var rules = ProtocolRules()
    var memory = MemoryAccount()
    var stalls: StallWatch
    /// Requests whose destination is being dialled, those included that the client has given up meanwhile.
    var requests = PendingRequests<Authority, PendingConnect>()
    /// This side is the server, and has dialled (ALPN `h2r`): the delegate is told of the connection's life as a
    /// client's is, so that another one is dialled in time.
    package var isReversed = false
    /// What whoever accepted it knows of where it came in.
    package var origin: (any AnyObject & Sendable)?
    /// How many requests in a row have shown no token that holds: counted by whoever asks for tokens.
    package var failedTokens = 0
    var allowance = StreamAllowance()
    /// Of the last request, as it was written and as it was read.
    var lastDestination: (text: String, destination: Authority)?
    /// The last request without header fields, as most of a peer's are: the next one mostly asks for the same.
    var lastRequest: RequestHead?

    var pings = PingQueue()
    var liveness: PeerLiveness
    var deadlines: RequestDeadlines
    var age: ConnectionAge
    var timers = Timers()
    var exported: MetricsExport
    /// The peer's SETTINGS have come: how many streams it allows is known.
    var isSettled = false
    /// An answer of the peer's is overdue: why nothing new is begun here. What is open goes on, and whatever comes from
    /// the peer ends the doubt.
    package internal(set) var doubt: StreamError?
    /// When it was asked what it has not answered since, on the loop's clock.
    var doubtedAt: UInt64 = 0
    /// How long the peer took that had been in doubt.
    package internal(set) var slowestAnswer = Duration.zero
    /// Streams that were open, or being opened, when the connection ended.
    private(set) var lostStreams = 0
    /// Exchanges that are answered, and whose clients still send.
    var unread = RequestDeadlines(timeout: .seconds(1))
    var unreadTimer: LoopTimer?
    /// A GOAWAY that refuses nothing is about to be sent.
    var isAnnouncing = false

    /// - Parameters:
    ///   - lower: A connected stream, its handshake done. The connection owns it and becomes its observer. Who the peer
    ///     is, and when the certificates expire, it says itself; see ``PeerFacts``.
    ///   - role: Which side of HTTP/2 this is.
    ///   - service: What a server has for its clients.
    ///   - early: What was read from `lower` already.
    ///   - configuration: Windows, limits, time-outs.
    ///   - delegate: Told of requests and of the end; not retained.
    /// - Throws: ``Streams/StreamError`` when the configuration is not valid.
    package init(
        over lower: ByteStream,
        role: Role,
        service: H2Service = .tunnels,
        early: [UInt8] = [],
        configuration: H2Configuration = .defaults,
        delegate: (any H2ConnectionDelegate)? = nil
    ) throws(StreamError) {
        try configuration.validate()
        let now = lower.loop.now
        loop = lower.loop
        self.lower = lower
        self.role = role
        self.service = service
        self.early = early
        self.configuration = configuration
        self.delegate = delegate
        facts = PeerFacts(of: lower)
        lastReceived = now
        lastSent = now
        settingsSentAt = EventLoop.monotonicTime()
        output = OutputStaging(pool: lower.loop.buffers)
        window = ConnectionWindow(size: configuration.windows.connection, limit: configuration.limits.queuedBytes)
        flood = FloodGuard(configuration.limits, now: now)
        stalls = StallWatch(configuration.limits)
        liveness = PeerLiveness(configuration.keepAlive)
        deadlines = RequestDeadlines(timeout: configuration.requestTimeout)
        age = ConnectionAge(
            maximum: configuration.age.maximum,
            fraction: Double.random(in: 0.8...1),
            now: now
        )
        age.expiry = facts.certificatesExpireAt
        exported = MetricsExport(isEnabled: configuration.metrics.isEnabled)
        session = NGHTTP2Session(
            isServer: role == .server,
            configuration: configuration,
            connection: Unmanaged.passUnretained(self).toOpaque()
        )
        lower.observer = self
        session?.submitSettings(isServer: isServer, configuration: configuration)
        startKeepAlive()
        startWatching()
        startMetrics()
        scheduleAging()
        markDirty()
        scheduleInput()
    }

    deinit {
        // Only what streams held that nobody ever closed.
        if memory.reported > 0 { configuration.memory.changed(by: -memory.reported, to: 0) }
    }

    package var isServer: Bool { role == .server }
    /// The peer takes no more streams here, or this side has been told to drain.
    package var isDraining: Bool { life.isDraining }
    package var isClosed: Bool { life.isClosed }
    /// Why the connection ended; also nil when it ended cleanly.
    package var failure: StreamError? { life.failure }

    /// What both ends name the traces of this connection's streams by; nil where the layer below has no TLS.
    private(set) lazy var traceSeed = (lower as? TLSStream)?.engine.exported("EXPORTER-bootstrap-trace")

    /// The peer makes the trace of a stream that comes without one by itself. Not known before its SETTINGS are there.
    var peerMakesTraces = false

    /// What the peer has said of ``H2Configuration/acknowledges``; 0: nothing.
    package internal(set) var peerAcknowledges = 0
    /// What the peer has said of ``H2Configuration/process``; 0: nothing.
    package internal(set) var peerProcess: UInt32 = 0
    /// What the streams here have in common for whoever has given them more to do than HTTP/2 knows of.
    package var companion: AnyObject?

    /// What the next stream is sent, where it has none; nil: nothing.
    func traceToSend(with stream: Int32) -> TraceParent? {
        switch configuration.traces {
        case .never: nil
        case .foreign where peerMakesTraces: nil
        case .foreign, .always: traceSeed.map { TraceParent(of: stream, on: $0) }
        }
    }

    /// Who the peer is, as its certificate says; nil where the layer below has no certificate.
    package var peer: SPIFFEID? { facts.identity }
    /// The certificate that the peer showed; nil where the layer below has none.
    package var peerCertificate: CertificateName? { facts.certificate }
    /// Where the peer is, where that is known.
    package var remoteAddress: SocketAddress? { facts.address }
    /// Whether it has a socket of its own, and does not run inside of another stream.
    package var isOverSocket: Bool { ((lower as? TLSStream)?.lower ?? lower) is Socket }
    /// This side's address of the TCP connection below; nil where none is.
    package var localAddress: SocketAddress? { ((lower as? TLSStream)?.lower as? Socket)?.localAddress }
    /// The connection that carries this one in one of its streams; nil where none does.
    package var carrier: H2Connection? { ((lower as? TLSStream)?.lower as? H2Stream)?.transport }
    package var peerDescription: String { peer?.description ?? lower.peerDescription }

    /// Of the last PING that somebody waited for; before one, the shortest that was seen.
    package var roundTripTime: Duration? { roundTrip.last ?? shortestRoundTripTime }
    /// The shortest that was seen, of PINGs, probes and SETTINGS; nil where none was.
    package var shortestRoundTripTime: Duration? {
        roundTrip.smallest > 0 ? .nanoseconds(Int64(clamping: roundTrip.smallest)) : nil
    }
    /// Bytes in the streams' incoming queues.
    var queuedBytes: Int { window.queued }
    /// Memory that the queues of this connection's streams hold, in bytes.
    package var heldBytes: Int { memory.held }

    /// Streams that are open or being opened.
    package var streamCount: Int { streams.count }

    /// A stream was opened.
    var hasServed: Bool { counters.streamsOpened > 0 }

    /// How many more streams a client may open here now.
    package var availableStreams: Int {
        // nghttp2 may have read a GOAWAY that has not come up here yet.
        guard !isServer, !isDraining, !isClosed, doubt == nil, session?.allowsRequests == true else { return 0 }
        let limit = session?.peerStreamLimit ?? 0
        guard allowance.isLimited else { return max(0, limit - streams.count) }
        return max(0, allowance.limit(announced: limit, now: loop.now) - streams.count)
    }

    /// When more streams may be tried on a connection whose peer refuses some; nil where it does not.
    package var takesMoreAt: UInt64? { allowance.isLimited && !isClosed ? allowance.triesAt : nil }

    /// Whether the peer has let the window of the connection run out and not opened it for
    /// ``H2Configuration/Windows/stallTime``: a new stream would wait behind whatever the peer does not read.
    package var isWindowStalled: Bool {
        !isClosed && peerWindow.isStalled(for: configuration.windows.stallTime, now: loop.now)
    }

    // MARK: StreamObserver of the layer below

    package func streamReadable(_ stream: ByteStream) {
        readInput()
    }

    package func streamWritable(_ stream: ByteStream) {
        output.lowerBecameWritable()
        flush()
    }

    package func streamFailed(_ stream: ByteStream) {
        lowerFailed()
    }

    package func runTurn() {
        if events.takeTurn() { dispatch() }
        if input.takeTurn() { readInput() }
        if output.isDirty { flush() }
    }

    // MARK: Events

    /// Records an event from outside of nghttp2; it is dispatched when the loop comes round.
    func addEvent(_ event: Event) {
        if events.add(event, isInLibrary: isInLibrary) { loop.nextTurn(self) }
    }

    /// Acts on what the callbacks recorded. Whatever is called here may do anything to this connection.
    func dispatch() {
        guard events.begin() else { return }
        while !isClosed, let event = events.popFirst() { handle(event) }
        events.finish()
    }

    private func handle(_ event: Event) {
        switch event {
        case .writable(let stream): stream.becameWritable()
        case .sourceEnded(let stream): stream.sourceEnded()
        case .sourceFailed(let stream): stream.sourceFailed()
        case .readingEnded(let stream): stream.readingEnded()
        case .brokeRule(let stream): brokeRule(stream)
        case .writingRefused(let stream): stream.writingRefused()
        case .reset(let stream, let code): wasReset(stream, code)
        case .closed(let stream, let code): closed(stream, code)
        case .goAway: receivedGoAway()
        case .announcedGoAway: ping { [weak self] _ in self?.sendFinalGoAway() }
        case .pong(let id): receivedPong(id)
        case .settings:
            isSettled = true
            delegate?.connectionHasCapacity(self)
        case .overMemory: shed()
        case .requestsReady: handOnRequests()
        }
    }

    // MARK: The end

    /// Ends the connection now: streams are told, resources released. `reason` nil means that nothing was lost.
    ///
    /// - Parameter abortsLower: Whether the peer sees an abort; false where GOAWAY has told it everything.
    func end(_ reason: StreamError?, abortsLower: Bool = true) {
        precondition(!isInLibrary, "a connection must not end inside of nghttp2")
        let lowerHasEnded = input.state == .endedBelow
        guard life.end(reason) else { return }
        stopTimers()
        output.release()
        schedule.removeAll { $0.sending.isScheduled = false }
        batch = InputBatch()
        requests.removeWaiting()
        let streams = self.streams
        self.streams = StreamTable()
        lostStreams = streams.count
        deadlines.removeAll()
        unread.removeAll()
        events.removeAll()
        heads.removeAll()
        lower.observer = nil
        if let reason, abortsLower {
            lower.reset(reason)
        } else if lowerHasEnded {
            lower.finish()
            lower.close()
        } else {
            _ = Departure(of: lower)
        }
        let loss =
            reason.map {
                StreamError($0.code == .closed ? .truncated : $0.code, "connection to \(peerDescription): \($0)")
            }
            ?? StreamError(.truncated, "the connection to \(peerDescription) was closed")
        for stream in streams.values { lost(stream, with: loss) }
        stopWatching()
        stopMetrics()
        for entry in pings.takeAll() { entry.completion(.failure(loss)) }
        for completion in drainDeadline.takeCompletions() { completion() }
        delegate?.connection(self, closed: reason)
        // Streams and callers may hold on to this object; nghttp2's memory need not wait for them.
        session = nil
    }

    private func lost(_ stream: H2Stream, with error: StreamError) {
        stream.wasReset = true
        let over = stream.isOver
        if let pending = stream.pending {
            pending.cancel()
        } else if stream.phase == .requested {
            // None of the stream's bytes has been sent, so that asking again cannot double or lose any.
            // Not so of an exchange, whose head may have been acted on.
            let isRetryable = error.isOfOneConnection && stream.kind == .tunnel
            failRequest(stream, ConnectFailure(error, isRetryable: isRetryable))
        }
        if !over { stream.lost(error) }
        stream.detach()
    }
}
