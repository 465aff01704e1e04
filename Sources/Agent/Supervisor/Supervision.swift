/// What a supervisor does next: when it starts a node, how long it waits before it tries again. A value without I/O.
///
///     start ── started ──→ running ── ended ──→ pause ── over ──→ start
///       └──── startFailed ──────────────────────↗ │
///               running ←──── replaced ───────────┘            stopped, from everywhere: over
struct Supervision {
    /// What the driver is to do.
    enum Step: Hashable {
        /// Start a node, and say how that went: ``started(_:at:)``, ``startFailed(at:)``.
        case start
        /// Wait for a signal, or for this long; then ask again.
        case wait(Duration)
        case end
    }

    private enum State {
        case starting(since: ContinuousClock.Instant)
        case running(process: Int32, since: ContinuousClock.Instant)
        case paused(until: ContinuousClock.Instant)
        case over
    }

    /// Longer than it lives, a node was healthy, and the next pause is the first again.
    static let healthyLife = Duration.seconds(60)
    /// Its streams wait meanwhile, and nearly always it comes up.
    static let firstPause = Duration.milliseconds(100)
    /// A machine whose node cannot start is not kept busy, and comes back soon after its cause is gone.
    static let longestPause = Duration.seconds(30)
    /// Every signal ends it.
    private static let idle = Duration.seconds(3600)

    private var state: State
    /// The next one's length.
    private(set) var pause = Supervision.firstPause

    /// - Parameter now: when the supervisor begins.
    init(at now: ContinuousClock.Instant) {
        state = .starting(since: now)
    }

    /// The node that is watched over.
    var process: Int32? {
        if case .running(let process, _) = state { process } else { nil }
    }

    mutating func next(at now: ContinuousClock.Instant) -> Step {
        switch state {
        case .starting: return .start
        case .running: return .wait(Self.idle)
        case .paused(let until) where now < until: return .wait(until - now)
        case .paused:
            state = .starting(since: now)
            return .start
        case .over: return .end
        }
    }

    mutating func started(_ process: Int32) {
        guard case .starting(let since) = state else { return }
        state = .running(process: process, since: since)
    }

    mutating func startFailed(at now: ContinuousClock.Instant) {
        guard case .starting(let since) = state else { return }
        beginPause(since: since, at: now)
    }

    /// Another node was started beside the one that is watched over, or in a pause, and has taken its sockets over.
    mutating func replaced(by process: Int32, at now: ContinuousClock.Instant) {
        switch state {
        case .starting(let since), .running(_, let since): state = .running(process: process, since: since)
        case .paused: state = .running(process: process, since: now)
        case .over: break
        }
    }

    /// A child has ended.
    ///
    /// - Returns: whether it was the node that is watched over; not one that was taken over before, and ended with its
    ///   last stream.
    mutating func ended(_ process: Int32, at now: ContinuousClock.Instant) -> Bool {
        guard case .running(process, let since) = state else { return false }
        beginPause(since: since, at: now)
        return true
    }

    mutating func stop() { state = .over }

    private mutating func beginPause(since: ContinuousClock.Instant, at now: ContinuousClock.Instant) {
        if since.duration(to: now) > Self.healthyLife { pause = Self.firstPause }
        state = .paused(until: now + pause)
        pause = min(pause * 2, Self.longestPause)
    }
}
