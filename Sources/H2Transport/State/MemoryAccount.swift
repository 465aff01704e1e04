import Streams

/// Memory that the queues of a connection's streams hold, and what of it the budget of all connections knows.
///
/// Nothing is looked for while bytes flow: the account is a plain addition where a queue takes or gives back a buffer.
struct MemoryAccount: Hashable {
    /// The account is balanced with the budget in steps of this size, so that what all event loops share is rarely
    /// touched.
    static var step: Int { 16384 }

    /// In bytes.
    private(set) var held = 0
    /// What of it the budget knows.
    private(set) var reported = 0
    /// The streams that hold most are about to be reset.
    private var isShedding = false

    /// The queues hold `change` more. Returns by how much what the budget knows has to change, where that is due.
    mutating func hold(_ change: Int) -> Int? {
        held += change
        let unreported = held - reported
        guard abs(unreported) >= Self.step || held == 0 && unreported != 0 else { return nil }
        reported = held
        return unreported
    }

    /// More than the connection may hold, or more than its share of what all may hold.
    func isOver(_ limit: Int, _ budget: H2MemoryBudget) -> Bool {
        held > limit || held > Self.step && budget.isExceeded && held > budget.fairShare
    }

    /// Returns false when that is about to happen already.
    mutating func startShedding() -> Bool {
        defer { isShedding = true }
        return !isShedding
    }

    mutating func endShedding() { isShedding = false }
}

/// What one stream costs, for the limits of its connection.
struct StreamUsage: Hashable {
    /// Bytes received and not yet taken.
    private(set) var queued = 0
    /// Memory of both queues.
    private(set) var held = 0
    /// Bytes that left in either direction.
    var progress: UInt64 = 0
    /// ``progress`` when the connection last looked.
    private var sample: UInt64 = 0
    /// When the connection first saw bytes wait here without progress, on the loop's clock; 0 while there is some.
    private var stalledSince: UInt64 = 0

    /// Returns what has changed; nil when nothing has.
    mutating func update(queued: Int, held: Int) -> (queued: Int, held: Int)? {
        guard queued != self.queued || held != self.held else { return nil }
        let change = (queued: queued - self.queued, held: held - self.held)
        self.queued = queued
        self.held = held
        return change
    }

    /// Looks whether the stream has had something to move for `limit` nanoseconds, and has moved nothing.
    mutating func stands(_ hasToMove: Bool, for limit: UInt64, now: UInt64) -> Bool {
        guard hasToMove, sample == progress else {
            stalledSince = 0
            return false
        }
        if stalledSince == 0 {
            stalledSince = now
            return false
        }
        return now &- stalledSince >= limit
    }

    /// Whether nothing has left since the last call of this.
    mutating func takeSample() -> Bool {
        defer { sample = progress }
        return sample == progress
    }
}

/// When the connection looks at its streams: seldom, and more often while something is held.
struct StallWatch: Hashable {
    /// Between two looks while nothing is held, and while something is.
    let longInterval: Duration
    let shortInterval: Duration
    /// How long the peer may take nothing, in nanoseconds.
    private let limit: UInt64
    private var isClose = false
    /// Credit was withheld at the last look already.
    private var wasOverloaded = false
    /// Bytes sent at the last look, and since when nothing has left; 0 while something does.
    private var sentSample: UInt64 = 0
    private var outputStalledSince: UInt64 = 0

    init(_ limits: H2Configuration.Limits) {
        longInterval = limits.stallTimeout / 4
        shortInterval = min(longInterval, limits.overloadGrace)
        limit = limits.stallTimeout.nanoseconds
    }

    /// Something is held. Returns whether the next look has to be sooner.
    mutating func startWatching() -> Bool {
        defer { isClose = true }
        return !isClose
    }

    /// After a look: how long until the next one.
    mutating func nextLook(holdsSomething: Bool) -> Duration {
        isClose = holdsSomething
        return isClose ? shortInterval : longInterval
    }

    /// Returns whether readers have been behind for a whole interval.
    mutating func stayedOverloaded(_ isOverloaded: Bool) -> Bool {
        defer { wasOverloaded = isOverloaded }
        return isOverloaded && wasOverloaded
    }

    /// Whether the peer has taken nothing for too long. `sent` counts what was sent so far.
    mutating func outputStalls(lowerIsFull: Bool, sent: UInt64, now: UInt64) -> Bool {
        defer { sentSample = sent }
        guard lowerIsFull, sentSample == sent else {
            outputStalledSince = 0
            return false
        }
        if outputStalledSince == 0 { outputStalledSince = now }
        return now &- outputStalledSince >= limit
    }
}
