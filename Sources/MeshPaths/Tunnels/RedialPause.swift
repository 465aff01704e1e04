import Streams

/// When a node dials again that holds a connection to a gateway: a value without a clock and without chance of its own.
///
/// A gateway that restarts loses the connections of all its devices at the same moment. None of them may come back at
/// the same moment as the others, nor at the same moment again and again.
///
/// ```
///   held for a minute, and lost; for 5 s, and let go in order ──→ 0 ... 3 s
///   not connected, or not for long ─────────────────────────────→ 0.5 ... 1.5 of 1 s, 2 s, 4 s ... 30 s
/// ```
///
/// A gateway that restarts in order says GOAWAY, and one whose program dies does not: when that is restarted again and
/// again, it may be its devices that it dies of.
package struct RedialPause: Hashable, Sendable {
    /// Attempts that came to nothing since a connection lasted.
    package private(set) var failures = 0

    private let first: Duration

    /// - Parameter first: After the first attempt that has come to nothing; the following ones are longer.
    package init(first: Duration = Self.first) { self.first = first }

    /// The first ones that come back come at once, the last ones after this time.
    package static let spread: Duration = .seconds(3)
    package static let first: Duration = .seconds(1)
    package static let longest: Duration = .seconds(30)
    /// A connection that has lasted for so long says that the gateway keeps what it takes.
    package static let trust: Duration = .seconds(60)
    /// The same, where the gateway has let go of it in order: one that does so with everything it takes must not be
    /// dialled in a loop.
    package static let orderlyTrust: Duration = .seconds(5)

    /// An attempt has come to nothing.
    ///
    /// - Parameter chance: From 0 up to 1, another one each time.
    package mutating func failed(_ chance: Double) -> Duration {
        failures += 1
        let doubled = first.nanoseconds << UInt64(min(failures - 1, 16))
        let base = min(doubled, max(Self.longest, first).nanoseconds)
        return .nanoseconds(Int64(Double(base) * (0.5 + chance)))
    }

    /// A connection was lost, or takes no more streams.
    ///
    /// - Parameters:
    ///   - time: For how long it was held.
    ///   - isOrderly: The gateway has said that it lets go of it.
    package mutating func lost(after time: Duration, isOrderly: Bool = false, _ chance: Double) -> Duration {
        guard time >= (isOrderly ? Self.orderlyTrust : Self.trust) else { return failed(chance) }
        failures = 0
        return replacing(chance)
    }

    /// There is a reason to make a new connection while the old one goes on.
    package func replacing(_ chance: Double) -> Duration {
        .nanoseconds(Int64(Double(Self.spread.nanoseconds) * chance))
    }
}
