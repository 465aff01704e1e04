package import Streams

/// The settings of an HTTP/2 connection.
public struct H2Configuration: Hashable, Sendable {
    /// Flow-control windows granted to the peer. They start small and are fitted to the path: a stream's window becomes
    /// twice what its reader takes within one round trip.
    public struct Windows: Hashable, Sendable {
        /// What one stream may send before its bytes have left here, in bytes, 65,535…2³¹−1. It is also the memory that
        /// one slow reader can cost. 64 KiB doubles the CPU time of bulk; 16 MiB lets keystrokes wait behind it.
        public var stream = 1 << 20
        /// What a stream's window may grow to, in bytes; with anything up to ``stream`` it stays as it is. 32 MiB let
        /// one stream fill 1 Gbit/s at 100 ms.
        public var largestStream = 32 << 20
        /// The window of all streams together; a multiple of ``stream``, so that one slow reader does not stop the
        /// others.
        public var connection = 16 << 20
        /// What it may grow to, in bytes: twice the largest window of its streams, and no more than
        /// ``Limits/queuedBytes``.
        public var largestConnection = 64 << 20
        /// A peer whose own window of the connection stays used up for this long gets new streams on another
        /// connection.
        public var stallTime: Duration = .milliseconds(200)

        /// The defaults.
        public init() {}
    }

    /// Detection of peers that are gone without a word.
    public struct KeepAlive: Hashable, Sendable {
        /// After this long without a byte from the peer a PING is sent.
        public var interval: Duration = .seconds(10)
        /// After this long without a byte since that PING, the connection is dead.
        public var timeout: Duration = .seconds(20)

        /// The defaults.
        public init() {}
    }

    /// For how long a connection is used.
    public struct Age: Hashable, Sendable {
        /// After this time, or up to a fifth earlier, new streams go to another connection; nil: never. So a
        /// certificate that was renewed, and a peer that lost its own, take effect within it.
        public var maximum: Duration? = .seconds(3600)
        /// How long the streams of such a connection may still go on before they are cut; nil: as long as they last.
        public var drainTimeout: Duration?

        /// The defaults.
        public init() {}
    }

    /// What a peer may ask of this side. Every limit has a counter (docs/metrics.md).
    public struct Limits: Hashable, Sendable {
        /// Streams that the peer may have open at once (SETTINGS_MAX_CONCURRENT_STREAMS).
        public var concurrentStreams = 1024
        /// Requests that wait for their answer at once; more are refused with REFUSED_STREAM, and the client may ask
        /// again. A request that its client gave up counts until its ``PendingConnect`` was answered or let go.
        public var pendingRequests = 1024
        /// Of those, the ones for one destination that are handed on, that is, dials in flight. The others for it wait
        /// until one has its answer: a destination that does not answer holds up nobody else.
        public var pendingPerDestination = 256
        /// Bytes of a header block as RFC 9113 §6.5.2 counts them (SETTINGS_MAX_HEADER_LIST_SIZE): each field's length
        /// plus 32.
        public var headerBytes = 16384
        /// Fields of a header block.
        public var headerFields = 64
        /// Resets by the peer of streams that had not been answered yet or were younger than a second (CVE-2023-44487).
        public var earlyResets = Rate(burst: 2000, perSecond: 500)
        /// Resets that the peer makes this side send by breaking the rules on a stream (CVE-2025-8671).
        public var provokedResets = Rate(burst: 200, perSecond: 20)
        /// PING, SETTINGS and GOAWAY frames, 1xx answers, and DATA frames that carry nothing (CVE-2019-9512, 9515,
        /// 9518). PRIORITY is ignored.
        public var controlFrames = Rate(burst: 2000, perSecond: 200)
        /// WINDOW_UPDATE frames beyond those that what was sent explains.
        public var windowUpdates = Rate(burst: 2000, perSecond: 200)
        /// Frames that wait to be sent; above it the connection is not read.
        public var outboundFrames = 512
        /// Bytes received and not yet taken by their readers, over all streams; above it, the connection window is no
        /// longer replenished. At least ``Windows/connection``.
        public var queuedBytes = 64 << 20
        /// How long readers may stay above ``queuedBytes`` before those that take nothing are reset, so that the others
        /// can go on. At most twice as long passes.
        public var overloadGrace: Duration = .seconds(2)
        /// Memory that all queues of the connection may hold, in bytes, those of writers included; above it the streams
        /// that hold most are reset. At least ``queuedBytes``. ``H2Configuration/memory`` bounds all connections
        /// together.
        public var memory = 256 << 20
        /// A stream that has bytes for its reader or its peer, of which nothing is taken for this long, is reset: of a
        /// peer without a verified identity in any case, of another one when half of ``memory`` or of
        /// ``H2Configuration/memory`` is held. So is a connection whose peer takes nothing. A quarter of it later at
        /// most.
        public var stallTimeout: Duration = .seconds(600)

        /// The defaults.
        public init() {}
    }

    /// A token bucket: `burst` at once, then so many a second.
    public struct Rate: Hashable, Sendable {
        /// How many are allowed at once; at least 1.
        public var burst: Int
        /// How many more are allowed with every second; 0 or more.
        public var perSecond: Int

        /// - Parameters:
        ///   - burst: At least 1.
        ///   - perSecond: 0 or more.
        public init(burst: Int, perSecond: Int) {
            self.burst = burst
            self.perSecond = perSecond
        }
    }

    /// What the peer may send before it is read.
    public var windows = Windows()
    /// When a peer that says nothing counts as gone.
    public var keepAlive = KeepAlive()
    /// How old a connection may become.
    public var age = Age()
    /// What the peer may ask for.
    public var limits = Limits()
    /// What the queues of all connections may hold together.
    public var memory = H2MemoryBudget.process
    /// Where what happens is counted.
    public var metrics = H2Metrics.process

    /// The largest DATA frame, in bytes, 16,384…131,072: sent where the peer allows it, and announced as
    /// SETTINGS_MAX_FRAME_SIZE. Larger frames make keystrokes wait behind bulk.
    public var frameSize = 65536

    /// Bytes that ``H2Stream`` accepts from a writer beyond what has been sent. Enough for one turn of the loop: what
    /// is in flight is the window's matter.
    public var sendQueue = 262_144

    /// How long a request may wait for its answer: the peer dials the destination meanwhile.
    public var requestTimeout: Duration = .seconds(15)

    /// How many requests a connection is given before the peer's SETTINGS arrive, which say how many it allows. One
    /// costs nobody a round trip, and is refused by no server but one that takes none at all. More would be lost in a
    /// burst: RFC 9113 §5.1.2 lets a client assume any number, but what the engine was given beyond the peer's limit
    /// waits inside of it until it times out.
    public var assumedPeerStreams = 1

    /// Which requests for tunnels that have no `traceparent` are sent one: the trace that this side records for them.
    package enum TraceSending: String, CaseIterable, Hashable, Sendable {
        /// Those to a peer that does not make the same one by itself.
        case foreign
        case always
        case never
    }

    package var traces = TraceSending.never
    /// A server tells its client that it makes a trace of the connection for streams that come without one.
    package var makesTraces = false
    /// Told to the peer for what runs inside of streams: so many bytes, taken on all of them together, are acknowledged
    /// at once. 0: nothing is told.
    package var acknowledges = 0
    /// Told to its clients by a server: which process of its node it is, by a number that was chosen by chance. 0:
    /// nothing is told.
    package var process: UInt32 = 0

    /// The defaults.
    public init() {}

    /// What is used where nothing else is asked for.
    public static var defaults: H2Configuration { H2Configuration() }

    /// Throws ``Streams/StreamError`` naming the first setting that is out of its range.
    package func validate() throws(StreamError) {
        func check(_ holds: Bool, _ message: @autoclosure () -> String) throws(StreamError) {
            guard holds else { throw StreamError(.badRequest, "HTTP/2 configuration: \(message())") }
        }
        let largestWindow = Int(Int32.max)
        try check(
            65535...largestWindow ~= windows.stream,
            "windows.stream is \(windows.stream), not between 65535 and \(largestWindow)"
        )
        try check(
            windows.stream...largestWindow ~= windows.connection,
            "windows.connection is \(windows.connection), not between windows.stream and \(largestWindow)"
        )
        try check(
            0...largestWindow ~= windows.largestStream && 0...largestWindow ~= windows.largestConnection,
            "windows.largestStream or windows.largestConnection is not between 0 and \(largestWindow)"
        )
        try check(16384...131_072 ~= frameSize, "frameSize is \(frameSize), not between 16384 and 131072")
        try check(sendQueue >= 16384, "sendQueue is \(sendQueue), less than 16384")
        try check(
            keepAlive.interval > .zero && keepAlive.timeout > .zero,
            "keepAlive has a duration that is not positive"
        )
        try check(age.maximum ?? .seconds(1) > .zero, "age.maximum is not positive")
        try check(age.drainTimeout ?? .zero >= .zero, "age.drainTimeout is negative")
        try check(windows.stallTime > .zero, "windows.stallTime is not positive")
        try check(requestTimeout > .zero, "requestTimeout is not positive")
        try check(assumedPeerStreams >= 1, "assumedPeerStreams is \(assumedPeerStreams), less than 1")
        try check(limits.concurrentStreams >= 1, "limits.concurrentStreams is less than 1")
        try check(
            limits.pendingRequests >= 1 && limits.pendingPerDestination >= 1,
            "limits.pendingRequests or limits.pendingPerDestination is less than 1"
        )
        try check(limits.headerBytes >= 1024, "limits.headerBytes is \(limits.headerBytes), less than 1024")
        try check(limits.headerFields >= 8, "limits.headerFields is \(limits.headerFields), less than 8")
        try check(limits.outboundFrames >= 16, "limits.outboundFrames is \(limits.outboundFrames), less than 16")
        try check(limits.queuedBytes >= windows.connection, "limits.queuedBytes is less than windows.connection")
        try check(limits.memory >= limits.queuedBytes, "limits.memory is less than limits.queuedBytes")
        try check(
            limits.stallTimeout > .zero && limits.overloadGrace > .zero,
            "limits.stallTimeout or limits.overloadGrace is not positive"
        )
        for rate in [limits.earlyResets, limits.provokedResets, limits.controlFrames, limits.windowUpdates] {
            try check(rate.burst >= 1 && rate.perSecond >= 0, "a rate has a burst below 1 or a negative perSecond")
        }
    }
}
