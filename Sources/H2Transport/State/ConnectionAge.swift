import Streams

/// How long a connection takes new streams. Whatever a peer once proved about itself grows old with its connection: a
/// new connection verifies it anew, and shows this side's present credential.
struct ConnectionAge: Hashable {
    enum Verdict: Hashable {
        case young
        /// The maximum age is reached; told once.
        case tooOld
        /// One of the two certificates has expired.
        case expired
    }

    /// When it is too old, on the loop's clock; nil: never, or that was told.
    private var agesAt: UInt64?
    /// When the first of the two certificates expires, in seconds since 1970.
    var expiry: Int64?
    /// Takes no more streams because of its age.
    private(set) var isRetired = false

    /// - Parameters:
    ///   - maximum: nil: never too old.
    ///   - fraction: Of the maximum, by chance, so that connections made together are not replaced together.
    ///   - now: On the loop's clock.
    init(maximum: Duration?, fraction: Double, now: UInt64) {
        if let maximum { agesAt = now &+ UInt64(Double(maximum.nanoseconds) * fraction) }
    }

    /// Returns false when it was retired before.
    mutating func retire() -> Bool {
        defer { isRetired = true }
        return !isRetired
    }

    /// How long until the next look; nil: there is nothing to look for.
    ///
    /// - Parameters:
    ///   - now: On the loop's clock.
    ///   - wallClock: Seconds since 1970.
    func nextLook(now: UInt64, wallClock: Int64) -> Duration? {
        guard !isRetired else { return nil }
        let age = agesAt.map { Duration.nanoseconds(Int64(clamping: $0 &- min($0, now))) }
        guard let expiry else { return age }
        // The loop's clock stands still while the machine sleeps, and the wall clock can be set: look again now and
        // then.
        let left = Duration.seconds(max(0, expiry &- wallClock))
        return min(age ?? left, left, .seconds(60))
    }

    mutating func look(now: UInt64, wallClock: Int64, _ counters: inout H2ConnectionCounters) -> Verdict {
        guard !isRetired else { return .young }
        if let expiry, wallClock >= expiry {
            counters.retiredExpired += 1
            return .expired
        }
        guard let agesAt, now >= agesAt else { return .young }
        self.agesAt = nil
        counters.retiredForAge += 1
        return .tooOld
    }
}
