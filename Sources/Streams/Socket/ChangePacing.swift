/// When changes of the network are told of: shortly after the first of several that belong together, and the less often
/// the longer they go on. A host that starts containers all day, or has a routing table of the Internet's, must not ask
/// its peers for a sign of life with each of them. A value without I/O and without a clock.
struct ChangePacing {
    /// An address comes with its routes, and the one before it goes with its own.
    static let delay: Duration = .milliseconds(50)
    /// Between the first two that are told of; doubles while changes go on.
    static let firstPause: Duration = .milliseconds(500)
    static let longestPause: Duration = .seconds(30)
    /// After so long without a change it begins anew.
    static let quiet: Duration = .seconds(60)

    private var lastChange: UInt64?
    private var lastTold: UInt64?
    private var pause = Self.firstPause
    private(set) var isPending = false

    /// There was a change. Returns how long to wait until it is told of; nil: that is arranged already.
    mutating func changed(now: UInt64) -> Duration? {
        if let lastChange, now &- lastChange >= Self.quiet.nanoseconds { pause = Self.firstPause }
        lastChange = now
        guard !isPending else { return nil }
        isPending = true
        guard let lastTold else { return Self.delay }
        let next = lastTold &+ pause.nanoseconds
        return next > now ? max(Self.delay, .nanoseconds(Int64(clamping: next &- now))) : Self.delay
    }

    /// It was none.
    mutating func forgotten() { isPending = false }

    /// It is told of now.
    mutating func told(now: UInt64) {
        isPending = false
        if let lastTold, now &- lastTold < Self.quiet.nanoseconds { pause = min(pause * 2, Self.longestPause) }
        lastTold = now
    }
}
