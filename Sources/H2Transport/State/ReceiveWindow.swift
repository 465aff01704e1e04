/// The window that one stream grants its peer, fitted to the path and to its reader: twice what the reader takes within
/// one round trip, so that the sender need not stop while WINDOW_UPDATE is on its way.
///
/// What counts is what has *left*, as in TCP's dynamic right-sizing (Fisk and Feng, 2001): a slow reader never makes
/// its window grow, and one that has become slow loses what it had. The round trip is the smallest ever seen on the
/// connection: one that is measured behind a queue would only make that queue longer.
struct ReceiveWindow {
    /// Bytes granted.
    private(set) var size: Int
    /// Bytes taken by the reader since ``measuredSince``.
    private var taken = 0
    /// On the loop's clock; 0 before the first byte.
    private var measuredSince: UInt64 = 0
    /// What the peer may still send beyond ``size``: credit is kept back until it is used up.
    private var excess = 0

    init(size: Int) {
        self.size = size
    }

    /// Notes that the reader has taken `count` bytes more, a good part of the window.
    ///
    /// - Parameters:
    ///   - now: Monotonic, in nanoseconds.
    ///   - roundTrip: The smallest seen, in nanoseconds; 0 where none is known.
    /// - Returns: The size that the window should have, where that is another one.
    mutating func took(_ count: Int, at now: UInt64, roundTrip: UInt64, in range: ClosedRange<Int>) -> Int? {
        guard measuredSince > 0 else {
            measuredSince = now
            return nil
        }
        taken += count
        let elapsed = now &- measuredSince
        // Less than a round trip says more about the batches on the loop than about the path.
        guard roundTrip > 0, elapsed >= roundTrip else { return nil }
        let product = UInt64(taken).multipliedFullWidth(by: roundTrip)
        let fitting = 2 * Int(clamping: elapsed.dividingFullWidth(product).quotient)
        taken = 0
        measuredSince = now
        // A quarter: what fits varies, and a window that follows every change never lets the sender run.
        let wanted = fitting > size ? fitting : fitting < size / 4 ? 2 * fitting : size
        let bounded = min(max(wanted, range.lowerBound), range.upperBound)
        return bounded == size ? nil : bounded
    }

    /// Returns what the peer is told at once: the difference to a larger size. A smaller one is reached by
    /// ``credit(for:)``, because a window that was granted cannot be taken back.
    mutating func resize(to newSize: Int) -> Int {
        let change = newSize - size
        size = newSize
        guard change > 0 else {
            excess -= change
            return 0
        }
        let settled = min(excess, change)
        excess -= settled
        return change - settled
    }

    /// How much the reader must have taken before the peer is told. The less, the more often WINDOW_UPDATE is sent,
    /// each with a system call; the more, the longer the sender stands still on a long path, where what is taken but
    /// not told is missing for a round trip.
    ///
    /// - Parameter roundTrip: The smallest seen, in nanoseconds; 0 where none is known.
    func leastCredit(roundTrip: UInt64) -> Int { roundTrip < Self.longRoundTrip ? size / 2 : size / 4 }

    /// In nanoseconds: a first window of 1 MiB fills 4 Gbit/s below it.
    private static var longRoundTrip: UInt64 { 2_000_000 }

    /// What the peer may be told when the reader has taken `count` bytes.
    mutating func credit(for count: Int) -> Int {
        let settled = min(excess, count)
        excess -= settled
        return count - settled
    }
}
