/// A pause on the wall clock. It is over as well when the clock was set back since: by the earlier time it could last
/// for days, and whoever paused has something to do.
package struct WallPause: Hashable, Sendable {
    private let begin: Int64
    private let end: Int64

    /// - Parameters:
    ///   - seconds: How long.
    ///   - now: When it begins, in seconds since 1970.
    package init(_ seconds: Int64, from now: Int64) {
        (begin, end) = (now, now.addingSaturating(seconds))
    }

    /// How many seconds of it are left.
    ///
    /// - Parameter now: Seconds since 1970.
    package func left(at now: Int64) -> Int64 { now < begin ? 0 : max(0, end.subtractingSaturating(now)) }
}
