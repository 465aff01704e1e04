import CLinux
import CNGHTTP2
public import MeshIdentity
public import Streams

/// Told what happens on an ``H2Connection``. Called on the connection's loop, never from inside one of its methods.
public protocol H2ConnectionDelegate: AnyObject {
    /// Server: a client asks for a tunnel. Answer it, now or later.
    func connection(_ connection: H2Connection, received request: PendingConnect)
    /// The peer takes no more streams on this connection (GOAWAY); those that are open go on.
    func connectionIsDraining(_ connection: H2Connection)
    /// A client may open more streams than before: one ended, or the peer raised its limit.
    func connectionHasCapacity(_ connection: H2Connection)
    /// The connection has reached ``H2Configuration/Age/maximum``. By default it is retired at once; a client may first make
    /// the one that replaces it, and then call ``H2Connection/retire()``.
    func connectionIsTooOld(_ connection: H2Connection)
    /// The connection is gone; `reason` is nil when it was closed with nothing left to do. Its streams have been told.
    func connection(_ connection: H2Connection, closed reason: StreamError?)
}

extension H2ConnectionDelegate {
    public func connectionIsDraining(_ connection: H2Connection) {}
    public func connectionHasCapacity(_ connection: H2Connection) {}
    public func connectionIsTooOld(_ connection: H2Connection) { connection.retire() }
}

/// HTTP/2 (RFC 9113) over any byte stream, for CONNECT tunnels. nghttp2 is the engine: it turns bytes into frames and back
/// and never touches a socket.
///
/// ```
///   lower.read ─ 256 KiB ─→ nghttp2_session_mem_recv ─→ chunks by stream ─ one write per stream ─→ sinks    (+Input)
///   streams ─ straight into staging, 256 KiB of frames ─→ one lower.write per turn                           (+Output)
/// ```
///
/// Confined to its event loop. The owner keeps it alive; open streams do as well.
public final class H2Connection: StreamObserver, TurnTask {
    /// Which side of HTTP/2 this is, whoever dialled the layer below.
    public enum Role: Hashable, Sendable {
        /// Opens tunnels.
        case client
        /// Is asked for tunnels.
        case server
    }

    enum Event {
        case writable(H2Stream)
        case sourceEnded(H2Stream)
        case sourceFailed(H2Stream)
        case readingEnded(H2Stream)
        case writingRefused(H2Stream)
        case reset(H2Stream, HTTP2ErrorCode)
        case closed(H2Stream, HTTP2ErrorCode)
        case goAway
        case pong(UInt64)
        case settings
        case overMemory
    }

    public let loop: EventLoop
    public let role: Role
    public let configuration: H2Configuration
    /// Who the peer is, as its certificate says; nil where the layer below has no certificate.
    public let peer: SPIFFEID?
    /// The certificate that the peer showed; set by whoever made the layer below, nil where there is none.
    public var peerCertificate: CertificateName?
    public weak var delegate: (any H2ConnectionDelegate)?
    /// Where the peer is, where that is known; set by whoever made the layer below.
    public var remoteAddress: SocketAddress?

    public internal(set) var counters = H2ConnectionCounters()
    /// Round-trip time of the last PING.
    public internal(set) var roundTripTime: Duration?
    /// The peer takes no more streams here, or this side has been told to drain.
    public internal(set) var isDraining = false
    /// Why the connection ended; also nil when it ended cleanly.
    public private(set) var failure: StreamError?
    public private(set) var isClosed = false

    let lower: ByteStream
    private var session: NGHTTP2Session?
    var nghttp2: OpaquePointer? { session?.pointer }

    /// Every stream nghttp2 knows, by identifier.
    var streams: [Int32: H2Stream] = [:]
    /// What callbacks recorded, to be acted on outside of nghttp2. Heads of messages come first, so that the owner of a
    /// stream is there before its bytes are delivered.
    var headEvents: ContiguousArray<H2Stream> = []
    var events: ContiguousArray<Event> = []
    var isInLibrary = false
    private var isDispatching = false
    private var dispatchIsScheduled = false

    // Input; see H2Connection+Input.swift.
    var batch = InputBatch()
    var inputIsScheduled = false
    var inputIsPaused = false
    /// Nothing more is fed to nghttp2: it has terminated the session, or the peer has ended its side.
    var inputHasEnded = false
    /// The peer has closed its side of the layer below.
    var lowerHasEnded = false
    /// When the last byte came from the peer, on the loop's clock.
    public internal(set) var lastReceived: UInt64
    /// When the last byte went to it.
    public internal(set) var lastSent: UInt64
    /// Bytes in the streams' incoming queues.
    var queuedBytes = 0
    /// Credit of the connection window held back while ``queuedBytes`` is over the limit.
    var withheldCredit = 0
    /// Requests whose destination is being dialled, those included that the client has given up meanwhile.
    var pendingRequests = 0
    /// See H2Connection+Memory.swift.
    var memory = MemoryAccount()
    var exported = ExportedMetrics()

    // Windows; see H2Connection+Windows.swift.
    /// What the peer may send on all streams together, in bytes.
    var connectionWindow: Int
    /// In nanoseconds; 0 before the first acknowledgment.
    var smallestRoundTrip: UInt64 = 0
    var roundTripIsBeingMeasured = false
    let settingsSentAt: UInt64

    // Output; see H2Connection+Output.swift.
    var schedule = SendSchedule()
    var staging: Buffer?
    var stagingIsFull = false
    /// The rest of a control frame that did not fit; nghttp2 keeps it until the next call of mem_send.
    var unsentControl = UnsafeRawBufferPointer(start: nil, count: 0)
    var isDirty = false
    var lowerIsFull = false
    var closesWhenFlushed = false
    /// Why, where something went wrong.
    var closeReason: StreamError?

    // Limits; see H2Connection+Limits.swift.
    var earlyResets: TokenBucket
    var provokedResets: TokenBucket
    var controlFrames: TokenBucket
    var windowUpdates: TokenBucket
    /// WINDOW_UPDATE frames that what was sent explains.
    var expectedWindowUpdates = 0
    /// Frames of type RST_STREAM that this side asked for and that have not been sent yet.
    var ownResets = 0

    // Life cycle; see H2Connection+Lifecycle.swift.
    var pings = PingQueue()
    var keepAliveTimer: LoopTimer?
    var keepAlivePing: UInt64?
    var requestTimer: LoopTimer?
    /// Requests in the order they were sent, from ``firstRequest`` on, for the timeout.
    var requests: ContiguousArray<(id: Int32, sentAt: UInt64)> = []
    var firstRequest = 0
    var isDrainStarted = false
    var drainTimer: LoopTimer?
    var drainDeadline = UInt64.max
    var drainCompletion: (() -> Void)?

    // Age; see H2Connection+Age.swift.
    var ageTimer: LoopTimer?
    /// When it is too old, on the loop's clock.
    var agesAt: UInt64?
    var expiry: Int64?
    var isRetired = false
    /// Since when the peer's window of the connection is used up, on the loop's clock; 0 when it is not.
    var windowEmptySince: UInt64 = 0

    /// - Parameters:
    ///   - lower: A connected stream, its handshake done. The connection owns it and becomes its observer.
    ///   - peer: Who the layer below has verified.
    ///   - role: Which side of HTTP/2 this is.
    ///   - configuration: Windows, limits, time-outs.
    ///   - delegate: Told of requests and of the end; not retained.
    /// - Throws: ``Streams/StreamError`` when the configuration is not valid.
    public init(
        over lower: ByteStream,
        role: Role,
        peer: SPIFFEID? = nil,
        configuration: H2Configuration = .defaults,
        delegate: (any H2ConnectionDelegate)? = nil
    ) throws(StreamError) {
        try configuration.validate()
        loop = lower.loop
        self.lower = lower
        self.role = role
        self.peer = peer
        self.configuration = configuration
        self.delegate = delegate
        let now = lower.loop.now
        lastReceived = now
        lastSent = now
        settingsSentAt = EventLoop.monotonicTime()
        connectionWindow = configuration.windows.connection
        earlyResets = TokenBucket(configuration.limits.earlyResets, now: now)
        provokedResets = TokenBucket(configuration.limits.provokedResets, now: now)
        controlFrames = TokenBucket(configuration.limits.controlFrames, now: now)
        windowUpdates = TokenBucket(configuration.limits.windowUpdates, now: now)
        session = NGHTTP2Session(
            isServer: role == .server,
            configuration: configuration,
            connection: Unmanaged.passUnretained(self).toOpaque()
        )
        lower.observer = self
        let result = session?.submitSettings(isServer: isServer, configuration: configuration) ?? 0
        precondition(result == 0, "nghttp2 refuses SETTINGS: \(String(cString: nghttp2_strerror(result)))")
        startKeepAlive()
        startWatching()
        startMetrics()
        startAging()
        markDirty()
        scheduleInput()
    }

    deinit {
        // Only what streams held that nobody ever closed.
        if memory.reported > 0 { configuration.memory.changed(by: -memory.reported, to: 0) }
    }

    public var isServer: Bool { role == .server }

    public var peerDescription: String { peer?.description ?? lower.peerDescription }

    /// Streams that are open or being opened.
    public var streamCount: Int { streams.count }

    /// How many more streams a client may open here now.
    public var availableStreams: Int {
        guard !isServer, !isDraining, !isClosed, let nghttp2 else { return 0 }
        // A GOAWAY that nghttp2 has read and that has not come up here yet.
        guard nghttp2_session_check_request_allowed(nghttp2) != 0 else { return 0 }
        let limit = nghttp2_session_get_remote_settings(nghttp2, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS)
        return max(0, Int(limit) - streams.count)
    }

    // MARK: StreamObserver of the layer below

    public func streamReadable(_ stream: ByteStream) {
        readInput()
    }

    public func streamWritable(_ stream: ByteStream) {
        lowerIsFull = false
        flush()
    }

    public func streamFailed(_ stream: ByteStream) {
        lowerFailed()
    }

    public func runTurn() {
        if dispatchIsScheduled {
            dispatchIsScheduled = false
            dispatch()
        }
        if inputIsScheduled {
            inputIsScheduled = false
            readInput()
        }
        if isDirty { flush() }
    }

    // MARK: Events

    /// Records an event from outside of nghttp2; it is dispatched when the loop comes round.
    func addEvent(_ event: Event) {
        events.append(event)
        guard !isInLibrary, !isDispatching, !dispatchIsScheduled else { return }
        dispatchIsScheduled = true
        loop.nextTurn(self)
    }

    /// Acts on what the callbacks recorded. Whatever is called here may do anything to this connection.
    func dispatch() {
        guard !isDispatching else { return }
        isDispatching = true
        defer { isDispatching = false }
        var index = 0
        while index < events.count && !isClosed {
            let event = events[index]
            index += 1
            handle(event)
        }
        events.removeAll(keepingCapacity: events.capacity <= 64)
    }

    private func handle(_ event: Event) {
        switch event {
        case .writable(let stream): stream.becameWritable()
        case .sourceEnded(let stream): stream.sourceEnded()
        case .sourceFailed(let stream): stream.sourceFailed()
        case .readingEnded(let stream): stream.readingEnded()
        case .writingRefused(let stream): stream.writingRefused()
        case .reset(let stream, let code): wasReset(stream, code)
        case .closed(let stream, let code): closed(stream, code)
        case .goAway: receivedGoAway()
        case .pong(let id): receivedPong(id)
        case .settings: delegate?.connectionHasCapacity(self)
        case .overMemory: shed()
        }
    }

    // MARK: The end

    /// Ends the connection now: streams are told, resources released. `reason` nil means that nothing was lost.
    ///
    /// - Parameter abortsLower: Whether the peer sees an abort; false where GOAWAY has told it everything.
    func end(_ reason: StreamError?, abortsLower: Bool = true) {
        precondition(!isInLibrary, "a connection must not end inside of nghttp2")
        guard !isClosed else { return }
        isClosed = true
        isDraining = true
        failure = reason
        stopTimers()
        if let staging { loop.buffers.give(staging) }
        staging = nil
        unsentControl = UnsafeRawBufferPointer(start: nil, count: 0)
        schedule.removeAll()
        batch = InputBatch()
        let streams = self.streams
        self.streams = [:]
        requests.removeAll()
        events.removeAll()
        headEvents.removeAll()
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
        drainCompletion?()
        drainCompletion = nil
        delegate?.connection(self, closed: reason)
        // Streams and callers may hold on to this object; nghttp2's memory need not wait for them.
        session = nil
    }

    private func lost(_ stream: H2Stream, with error: StreamError) {
        stream.wasReset = true
        let over = stream.state.isOver
        if let pending = stream.pending {
            pending.cancel()
        } else if stream.phase == .requested {
            // None of the stream's bytes has been sent, so that asking again cannot double or lose any.
            failRequest(stream, ConnectFailure(error, isRetryable: error.isOfOneConnection))
        }
        if !over { stream.lost(error) }
        stream.detach()
    }
}
