/// Tells a crowd of short connections from long ones, by Little's law: where more come within a while than are open at
/// once, each stays for less than that while. Nobody has to be asked how long its connection has lasted.
struct ShortLivedConnections {
    /// In nanoseconds.
    private static var interval: UInt64 { 100_000_000 }

    private var intervalStart: UInt64 = 0
    private var accepted = 0
    private var acceptedBefore = 0

    /// Another one was accepted. Returns whether those of late stay for less than half of the interval.
    ///
    /// - Parameters:
    ///   - now: Monotonic, in nanoseconds.
    ///   - open: How many are open where they were accepted, others included.
    mutating func accepted(now: UInt64, open: Int) -> Bool {
        let elapsed = now &- intervalStart
        if elapsed >= Self.interval {
            acceptedBefore = elapsed < 2 * Self.interval ? accepted : 0
            accepted = 0
            intervalStart = now
        }
        accepted += 1
        return max(accepted, acceptedBefore) > 2 * open
    }
}
