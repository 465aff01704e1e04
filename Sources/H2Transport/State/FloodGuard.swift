/// Work that a peer makes for nothing, and how much of it is borne: the rates of ``H2Configuration/Limits``.
struct FloodGuard {
    /// A rate that was exceeded. The peer is cut off.
    enum Flood: String {
        case earlyResets = "too many streams were reset before they were used"
        case provokedResets = "too many streams had to be reset"
        case refusedRequests = "too many requests had to be refused"
        case controlFrames = "too many control frames"
        case windowUpdates = "too many WINDOW_UPDATE frames"
    }

    /// A stream younger than this that is reset counts as an early reset, answered or not. In nanoseconds.
    private static var youth: UInt64 { 1_000_000_000 }

    private var earlyResets: TokenBucket
    private var provokedResets: TokenBucket
    private var controlFrames: TokenBucket
    private var windowUpdates: TokenBucket
    /// WINDOW_UPDATE frames that what was sent explains.
    private var expectedWindowUpdates = 0
    /// Frames of type RST_STREAM that this side asked for and that have not been sent yet.
    private var ownResets = 0

    /// - Parameter now: On the loop's clock, in nanoseconds, as in all that follows.
    init(_ limits: H2Configuration.Limits, now: UInt64) {
        earlyResets = TokenBucket(limits.earlyResets, now: now)
        provokedResets = TokenBucket(limits.provokedResets, now: now)
        controlFrames = TokenBucket(limits.controlFrames, now: now)
        windowUpdates = TokenBucket(limits.windowUpdates, now: now)
    }

    /// A client has reset a stream. One that opens streams only to reset them makes a server dial for nothing
    /// (CVE-2023-44487).
    ///
    /// - Parameters:
    ///   - requestedAt: When the stream was asked for.
    ///   - isAnswered: Whether the request was answered with 2xx.
    ///   - hadEnded: Whether the client had sent everything before.
    mutating func clientReset(
        requestedAt: UInt64,
        isAnswered: Bool,
        hadEnded: Bool,
        now: UInt64,
        _ counters: inout H2ConnectionCounters
    ) -> Flood? {
        guard !isAnswered || now &- requestedAt < Self.youth else { return nil }
        // A stream that both sides had finished with costs nothing.
        guard !(isAnswered && hadEnded) else { return nil }
        counters.earlyResetsReceived += 1
        return earlyResets.take(now: now) ? nil : .earlyResets
    }

    /// A request was refused without a look at it: there are too many.
    mutating func refusedRequest(now: UInt64) -> Flood? {
        earlyResets.take(now: now) ? nil : .refusedRequests
    }

    /// This side has submitted RST_STREAM of its own accord.
    mutating func submittedReset() { ownResets += 1 }

    /// RST_STREAM was sent. nghttp2 resets a stream on its own when the peer breaks the rules on it: work for nothing
    /// as well (CVE-2025-8671).
    mutating func sentReset(_ code: HTTP2ErrorCode, now: UInt64, _ counters: inout H2ConnectionCounters) -> Flood? {
        counters.resetsSent += 1
        if ownResets > 0 {
            ownResets -= 1
            return nil
        }
        if code == .refusedStream {
            counters.streamsRefused += 1
        } else {
            counters.provokedResets += 1
        }
        return chargeProvokedWork(now: now)
    }

    mutating func chargeProvokedWork(now: UInt64) -> Flood? {
        provokedResets.take(now: now) ? nil : .provokedResets
    }

    /// A frame that carries nothing for a stream.
    mutating func controlFrame(now: UInt64, _ counters: inout H2ConnectionCounters) -> Flood? {
        counters.controlFramesReceived += 1
        return controlFrames.take(now: now) ? nil : .controlFrames
    }

    /// What was sent lets the peer give credit: for the stream and the connection, and for each KiB where it reads in
    /// small pieces.
    mutating func sent(bytes count: Int) {
        expectedWindowUpdates = min(expectedWindowUpdates + 4 + count >> 10, 65536)
    }

    /// Credit for what was never sent is work for nothing.
    mutating func windowUpdate(now: UInt64, _ counters: inout H2ConnectionCounters) -> Flood? {
        if expectedWindowUpdates > 0 {
            expectedWindowUpdates -= 1
            return nil
        }
        counters.excessWindowUpdates += 1
        return windowUpdates.take(now: now) ? nil : .windowUpdates
    }
}

/// Admits `burst` events at once and then so many a second.
struct TokenBucket {
    private let rate: H2Configuration.Rate
    /// In billionths of a token, so that no time is lost to rounding.
    private var tokens: UInt64
    private var filledAt: UInt64

    init(_ rate: H2Configuration.Rate, now: UInt64) {
        self.rate = rate
        tokens = UInt64(rate.burst) * 1_000_000_000
        filledAt = now
    }

    /// Returns false when the rate is exceeded. `now` is monotonic, in nanoseconds.
    mutating func take(now: UInt64) -> Bool {
        let full = UInt64(rate.burst) * 1_000_000_000
        let (gained, overflow) = (now &- filledAt).multipliedReportingOverflow(by: UInt64(rate.perSecond))
        tokens = overflow || gained > full - tokens ? full : tokens + gained
        filledAt = now
        guard tokens >= 1_000_000_000 else { return false }
        tokens -= 1_000_000_000
        return true
    }
}
