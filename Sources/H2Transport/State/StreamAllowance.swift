import Streams

/// How many streams a client has at once on a connection whose peer refuses some (REFUSED_STREAM) below the limit that
/// it has announced: as many as it took, and more as it answers. Refusals cost both sides work, so that a client must
/// not go on asking at the rate at which it is refused.
struct StreamAllowance: Hashable {
    /// After a refusal; doubles with the next ones.
    static let firstPause: Duration = .milliseconds(50)
    static let longestPause: Duration = .seconds(1)

    /// nil: as many as the peer has announced.
    private var limit: Int?
    private var pause = StreamAllowance.firstPause
    /// When more may be tried, on the loop's clock.
    private(set) var triesAt: UInt64 = 0

    /// Whether there is a limit of its own.
    var isLimited: Bool { limit != nil }

    /// The peer has refused a stream, while `open` others stay.
    mutating func refused(open: Int, now: UInt64) {
        limit = min(limit ?? open, open)
        // One burst is one refusal.
        guard now >= triesAt else { return }
        triesAt = now &+ pause.nanoseconds
        pause = min(pause * 2, Self.longestPause)
    }

    /// The peer has answered a request: it can do more. `announced` is its limit.
    mutating func answered(announced: Int) {
        guard let limit else { return }
        self.limit = limit + 2 < announced ? limit + 2 : nil
        pause = Self.firstPause
    }

    /// How many streams there may be at once.
    func limit(announced: Int, now: UInt64) -> Int {
        guard let limit else { return announced }
        return min(announced, now >= triesAt ? limit + max(1, limit / 4) : limit)
    }
}
