import Platform

/// When to renew a certificate: at half to two thirds of its lifetime, and how long to wait after a failure.
///
/// Random numbers come from outside, so that the same inputs give the same times.
package struct RenewalSchedule: Hashable, Sendable {
    /// When to renew first, in seconds since 1970.
    package let renewAt: Int64
    /// When the certificate ends, in seconds since 1970.
    package let notAfter: Int64
    /// Attempts that failed since then.
    package private(set) var failures = 0
    /// After the last of these.
    private var pause: WallPause?

    /// The longest wait between two attempts, in seconds: as ztunnel's.
    package static let longestBackoff: Int64 = 150

    /// 7/12 ± 10 % is 0.525 to 0.642: within half to two thirds for every device, and a fleet that was enrolled in one
    /// minute spreads over three hours of a day's lifetime.
    private static let fraction = 7.0 / 12.0
    private static let jitter = 0.1

    /// - Parameters:
    ///   - notBefore: seconds since 1970; CAs set it back by two minutes, which are not counted as lifetime.
    ///   - notAfter: seconds since 1970.
    ///   - random: 0 to 1, drawn for each certificate.
    package init(notBefore: Int64, notAfter: Int64, random: Double = .random(in: 0..<1)) {
        let total = max(0, notAfter.subtractingSaturating(notBefore))
        let backdating = min(IssuanceOptions.defaultBackdating.components.seconds, total / 2)
        let lifetime = Double(total - backdating)
        let share = Self.fraction * (1 + Self.jitter * (2 * min(max(random, 0), 1) - 1))
        renewAt = notBefore.addingSaturating(backdating).addingSaturating(Int64(lifetime * share))
        self.notAfter = notAfter
    }

    /// An attempt failed. Returns how many seconds to wait before the next: doubling from one second, ± 20 %, at most
    /// 150, and so that one more attempt is made before the certificate ends.
    ///
    /// - Parameters:
    ///   - now: seconds since 1970.
    ///   - random: 0 to 1.
    package mutating func attemptFailed(at now: Int64, random: Double = .random(in: 0..<1)) -> Int64 {
        let doubled = Double(Int64(1) << min(Int64(failures), 8))
        failures += 1
        let wait = Int64((doubled * (0.8 + 0.4 * min(max(random, 0), 1))).rounded())
        let backoff = min(max(1, wait), Self.longestBackoff)
        let remaining = notAfter.subtractingSaturating(now)
        let chosen = remaining > 1 ? min(backoff, remaining - 1) : backoff
        pause = WallPause(chosen, from: now)
        return chosen
    }

    /// How many seconds to wait before the next attempt; zero if it is due.
    package func wait(at now: Int64) -> Int64 {
        max(0, renewAt.subtractingSaturating(now), pauseLeft(at: now))
    }

    /// How much is left of the pause after a failure.
    package func pauseLeft(at now: Int64) -> Int64 { pause?.left(at: now) ?? 0 }
}
