import Streams

/// Ends what nobody has used for so long. Confined to its loop.
///
/// Whether somebody uses it is looked at now and then, and what is short says so itself: it ends after `limit` at the
/// earliest, and an eighth of that later at the latest.
final class Idleness {
    private let limit: Duration
    private let loop: EventLoop
    private let isUsed: () -> Bool
    private let end: () -> Void
    private var timer: LoopTimer?
    /// On the loop's clock.
    private var lastUse: UInt64 = 0
    /// ``limit``, and before the first use perhaps more.
    private var allowed: Duration
    private var wasUsed = false

    private static let longestPause = Duration.seconds(60)

    init(limit: Duration, on loop: EventLoop, isUsed: @escaping () -> Bool, end: @escaping () -> Void) {
        self.limit = limit
        allowed = limit
        self.loop = loop
        self.isUsed = isUsed
        self.end = end
        timer = LoopTimer(on: loop) { [weak self] in self?.look() }
    }

    /// - Parameter firstUse: For so long at least it waits for somebody to use it at all.
    func begin(firstUse: Duration) {
        lastUse = loop.now
        if !wasUsed { allowed = max(limit, firstUse) }
        look()
    }

    /// Somebody has used it just now.
    func used() {
        lastUse = loop.now
        allowed = limit
        wasUsed = true
    }

    func stop() { timer?.cancel() }

    private func look() {
        if isUsed() { used() }
        let idle = Duration.nanoseconds(Int64(clamping: loop.now &- lastUse))
        guard idle < allowed else { return end() }
        timer?.schedule(after: min(allowed - idle, limit / 8, Self.longestPause))
    }
}
