import CLinux
import Glibc

/// How much of a processor a thread uses, by its own clock: a loop that waits for its processor behind other threads is
/// no less slow for it, but would gain nothing from a second one.
struct LoopLoad {
    /// Between two looks, in nanoseconds: the clock of a thread costs a system call, and what a scheduler gives a
    /// thread at once says nothing yet.
    private static var interval: UInt64 { 50_000_000 }

    private(set) var isHigh = false
    private var lookedAt: UInt64 = 0
    private var usedBefore: UInt64 = 0

    /// To be called in each turn, on the thread.
    ///
    /// - Parameter start: Of the turn, by the monotonic clock.
    mutating func look(start: UInt64) {
        guard start &- lookedAt >= Self.interval else { return }
        let now = EventLoop.monotonicTime()
        var time = timespec()
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
        see(used: UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec), elapsed: now &- lookedAt)
        lookedAt = now
    }

    /// - Parameter used: Of a processor, since the thread began.
    mutating func see(used: UInt64, elapsed: UInt64) {
        isHigh = (used &- usedBefore) / 17 > elapsed / 20
        usedBefore = used
    }
}
