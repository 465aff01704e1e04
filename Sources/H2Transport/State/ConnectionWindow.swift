import Streams

/// What the peer may send on all streams together (RFC 9113 §5.2).
///
/// Replenished at once: each stream is bounded by its own window, and a slow one must not stop the others (§5.2.2).
/// Only when the readers together leave too much is credit held back, until they have caught up.
struct ConnectionWindow: Hashable {
    /// Bytes granted.
    private(set) var size: Int
    /// Bytes in the streams' incoming queues.
    private(set) var queued = 0
    /// Credit held back.
    private(set) var withheld = 0
    /// Of ``queued``; above it credit is held back.
    private let limit: Int
    /// What the peer may still send, by what has been sent to it: at the start, what RFC 9113 §6.9.2 says.
    private var left = 65535

    init(size: Int, limit: Int) {
        self.size = size
        self.limit = limit
    }

    /// `count` bytes were received. Returns the credit that the peer gets for them now.
    mutating func received(_ count: Int, _ counters: inout H2ConnectionCounters) -> Int {
        guard count > 0, queued > limit else { return count }
        if withheld == 0 { counters.windowStalls += 1 }
        withheld += count
        return 0
    }

    mutating func queueChanged(by change: Int) { queued += change }

    /// WINDOW_UPDATE was sent.
    mutating func granted(_ count: Int) { left += count }

    /// The peer has sent so much. Returns whether it was allowed to.
    mutating func uses(_ count: Int) -> Bool {
        left -= count
        return left >= 0
    }

    /// Returns credit that was held back and is due, because the readers have caught up.
    mutating func release() -> Int {
        guard withheld > 0, queued <= limit / 2 else { return 0 }
        defer { withheld = 0 }
        return withheld
    }

    /// The largest that the window of one stream may be.
    func largestStream(_ windows: H2Configuration.Windows) -> Int { min(windows.largestStream, limit / 2) }

    /// Makes room for a stream's window of `size`: a multiple of it, or the streams would starve one another. Returns
    /// the new size, where it is another one.
    mutating func grow(forStream streamSize: Int, largest: Int) -> Int? {
        let wanted = min(2 * streamSize, largest, limit)
        guard wanted > size else { return nil }
        size = wanted
        return wanted
    }
}

/// How long the peer's answers take.
struct RoundTrip: Hashable {
    /// The smallest seen, in nanoseconds; 0 before the first acknowledgment.
    private(set) var smallest: UInt64 = 0
    /// Of the last PING.
    private(set) var last: Duration?
    private var isBeingMeasured = false

    /// A PING or SETTINGS was acknowledged after so many nanoseconds.
    mutating func saw(_ time: UInt64) {
        let time = max(time, 1)
        if smallest == 0 || time < smallest { smallest = time }
    }

    /// A PING was answered after so many nanoseconds.
    mutating func answered(after nanoseconds: UInt64) -> Duration {
        saw(nanoseconds)
        let time = Duration.nanoseconds(Int64(clamping: nanoseconds))
        last = time
        return time
    }

    /// Returns false when a PING for this is on its way.
    mutating func startMeasuring() -> Bool {
        defer { isBeingMeasured = true }
        return !isBeingMeasured
    }

    mutating func endMeasuring() { isBeingMeasured = false }
}

/// The window of the connection that the peer grants, as far as it is used up.
struct PeerWindow: Hashable {
    /// Since when, on the loop's clock; 0 when it is not.
    private var emptySince: UInt64 = 0

    /// DATA was sent, which left `rest` of the window.
    mutating func sent(leaving rest: Int32, now: UInt64, _ counters: inout H2ConnectionCounters) {
        guard emptySince == 0, rest <= 0 else { return }
        emptySince = now
        counters.sendWindowStalls += 1
    }

    mutating func opened() { emptySince = 0 }

    /// The peer has let it run out and not opened it for `time`.
    func isStalled(for time: Duration, now: UInt64) -> Bool {
        emptySince > 0 && now &- emptySince >= time.nanoseconds
    }
}
