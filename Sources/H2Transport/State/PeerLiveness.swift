import Streams

/// Finds a peer that is gone without a word: silence, then a PING, then silence.
struct PeerLiveness: Hashable {
    enum Action: Hashable {
        /// Look again after this time.
        case wait(Duration)
        /// Send a PING, and look again after this time.
        case ping(Duration)
        /// No byte has come since the PING.
        case dead
    }

    private let interval: Duration
    private let timeout: Duration
    /// When the PING was sent, on the loop's clock, as long as nothing has come since.
    private var pingedAt: UInt64?

    init(_ configuration: H2Configuration.KeepAlive) {
        interval = configuration.interval
        timeout = configuration.timeout
    }

    /// The timer has fired. `lastReceived` is when the last byte came; both are on the loop's clock.
    mutating func look(lastReceived: UInt64, now: UInt64) -> Action {
        if let pingedAt, pingedAt >= lastReceived {
            let waited = Duration.nanoseconds(Int64(clamping: now &- pingedAt))
            return waited >= timeout ? .dead : .wait(timeout - waited)
        }
        let silence = Duration.nanoseconds(Int64(clamping: now &- lastReceived))
        if silence >= interval {
            pingedAt = now
            return .ping(timeout)
        }
        pingedAt = nil
        return .wait(interval - silence)
    }
}
