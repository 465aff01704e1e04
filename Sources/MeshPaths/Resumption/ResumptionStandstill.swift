/// For how long the other side has acknowledged nothing of what it was sent.
struct ResumptionStandstill {
    private var acknowledged: UInt64 = 0
    private var generation: UInt64 = 0
    /// Nil: it has acknowledged everything that was sent, or there is no carrier.
    private var since: UInt64?

    /// Asked now and then; what happens between two questions counts from the second.
    ///
    /// - Parameter now: In nanoseconds, as the result.
    mutating func time(of state: ResumptionState, at now: UInt64) -> UInt64 {
        guard state.isAttached, state.sent > state.acknowledged else {
            since = nil
            return 0
        }
        if let since, acknowledged == state.acknowledged, generation == state.generation { return now &- since }
        since = now
        acknowledged = state.acknowledged
        generation = state.generation
        return 0
    }
}
