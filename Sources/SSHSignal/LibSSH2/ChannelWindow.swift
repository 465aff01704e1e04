/// The receive window of one channel, fitted to the path and to its reader: twice what the reader takes within one
/// round trip, so that the server need not stop while an adjustment is on its way.
///
/// What counts is what has been *read*: a slow reader never makes its window grow, and one that has become slow loses
/// what it had, by credit that is kept back: SSH cannot take a window back (RFC 4254 §5.2).
struct ChannelWindow {
    /// What a channel begins with where there is plenty, and where most of the budget is used up.
    static let initial = 256 << 10
    static let smallest = 128 << 10
    /// Round trips below this count as this long: on a machine of its own the server is woken late rather than far
    /// away. Gives a bulk stream on loopback 2 MiB, where throughput is highest.
    static let shortestRoundTrip: UInt64 = 3_000_000

    /// Bytes that are kept granted.
    private(set) var size: Int
    /// It never gets smaller than it began.
    let minimum: Int
    private var taken = 0
    /// On the loop's clock; 0 before the first byte.
    private var measuredSince: UInt64 = 0

    init(size: Int) {
        self.size = size
        minimum = size
    }

    /// Notes that the reader has taken `count` bytes more.
    ///
    /// - Parameters:
    ///   - now: Monotonic, in nanoseconds.
    ///   - roundTrip: The smallest seen on the connection, in nanoseconds.
    /// - Returns: The size that would fit, where that is another one.
    mutating func took(_ count: Int, at now: UInt64, roundTrip: UInt64) -> Int? {
        guard measuredSince > 0 else {
            measuredSince = now
            return nil
        }
        taken += count
        let roundTrip = max(roundTrip, Self.shortestRoundTrip)
        let elapsed = now &- measuredSince
        guard elapsed >= roundTrip else { return nil }
        let product = UInt64(taken).multipliedFullWidth(by: roundTrip)
        let fitting = 2 * Int(clamping: elapsed.dividingFullWidth(product).quotient)
        taken = 0
        measuredSince = now
        // A quarter: what fits varies, and a window that follows every change never lets the server run.
        if fitting > size { return fitting }
        return fitting < size / 4 ? max(2 * fitting, minimum) : nil
    }

    mutating func resize(to size: Int) { self.size = max(size, minimum) }
}

/// What all channels of a session may announce together: OpenSSH's server queues what its client is too slow for, and
/// above about 6 MiB spends its time copying that queue.
struct WindowBudget {
    let total: Int
    /// What the server may send now, by all windows.
    private(set) var announced = 0
    /// When a channel was last refused what it wanted; on the loop's clock.
    private var deniedAt: UInt64 = 0

    /// While somebody was refused so recently, windows above their share shrink.
    private static let scarcity: UInt64 = 1_000_000_000

    init(total: Int) { self.total = total }

    mutating func change(by difference: Int) { announced += difference }

    /// What the next channel begins with, if it wants `wanted`: however many there are, each must be able to work.
    func opening(_ wanted: Int) -> Int { announced > total / 2 ? min(wanted, ChannelWindow.smallest) : wanted }

    /// How much of `wanted` more a channel gets: at most half of what is left, so that the next one gets something too.
    mutating func grant(_ wanted: Int, at now: UInt64) -> Int {
        let granted = min(wanted, max(0, total - announced) / 2)
        if granted < wanted { deniedAt = now }
        return granted
    }

    /// The largest window that a channel may keep while others wait for theirs; nil while nobody does.
    func share(of channels: Int, at now: UInt64) -> Int? {
        guard deniedAt > 0, now &- deniedAt < Self.scarcity, channels > 0 else { return nil }
        return max(ChannelWindow.smallest, total / channels)
    }
}
