import CLinux
import Glibc

/// What time it is by the wall clock, which may jump: for certificates, records and logs. What is measured, or waited
/// for, has a monotonic clock (`ContinuousClock`, the event loop's `now`).
///
/// A value that is passed along, so that a test sets it instead of waiting.
package struct WallClock: Sendable {
    private let read: @Sendable () -> Int64

    /// - Parameter milliseconds: Asked each time; since 1970.
    package init(milliseconds: @escaping @Sendable () -> Int64) { read = milliseconds }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    package var milliseconds: Int64 { read() }

    /// Seconds since 1970-01-01T00:00:00Z, rounded down.
    package var seconds: Int64 { read() / 1000 }

    /// This machine's.
    package static let system = WallClock {
        var now = timespec()
        clock_gettime(CLOCK_REALTIME, &now)
        return Int64(now.tv_sec) * 1000 + Int64(now.tv_nsec) / 1_000_000
    }

    /// One that stands still.
    ///
    /// - Parameter seconds: Since 1970.
    package static func fixed(_ seconds: Int64) -> WallClock { WallClock { seconds * 1000 } }

    /// One that is ahead of this one.
    package func advanced(by seconds: Int64) -> WallClock { WallClock { [read] in read() + seconds * 1000 } }
}
