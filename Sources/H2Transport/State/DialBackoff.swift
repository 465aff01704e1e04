import Streams

/// When a peer may be dialled again whose connections come to nothing: it takes them, and ends them before they have
/// carried a stream. Only a connection that lasts makes up for those before it.
package struct DialBackoff: Hashable {
    /// Connections that came to nothing since the last one that lasted.
    private(set) var failures = 0
    /// No sooner than this, on the loop's clock.
    private(set) var notBefore: UInt64 = 0
    private var failedAt: UInt64 = 0

    /// Nothing has failed.
    package init() {}

    /// A connection that has lived for this long has proved that the peer keeps what it takes.
    static let trust: Duration = .seconds(60)
    /// After the second failure; doubles with each further one. The first is followed by another attempt at once: a
    /// server that restarts may have taken the connection with its last breath.
    static let firstPause: Duration = .milliseconds(100)
    /// Somebody waits whenever a peer is dialled, so that a pause must not become longer than patience.
    static let longestPause: Duration = .seconds(1)

    /// A connection came to nothing. `upSince`: since when the oldest of the others has been up.
    mutating func failed(now: UInt64, upSince: UInt64? = nil) {
        // One that was made after the last failure, and has lasted.
        if let upSince, upSince >= failedAt { lasted(from: upSince, to: now) }
        failures += 1
        failedAt = now
        notBefore = now &+ pause
    }

    /// A connection has lived from one time to another.
    mutating func lasted(from start: UInt64, to end: UInt64) {
        if end &- start >= Self.trust.nanoseconds { failures = 0 }
    }

    /// What stood in the way may be gone: the next attempt may be made now.
    mutating func hurry() { notBefore = 0 }

    private var pause: UInt64 {
        guard failures > 1 else { return 0 }
        let doubled = Self.firstPause.nanoseconds << UInt64(min(failures - 2, 16))
        return min(doubled, Self.longestPause.nanoseconds)
    }
}
