/// Finds out whether the server is still there: after a silence it is asked for something that it must answer.
///
/// Two silences count. Of an idle connection, a long one: a middlebox may have forgotten it. Of one that has sent
/// something since it last heard anything, a short one: somebody waits for an answer, and another path may be there to
/// take over. Any byte from the server is a sign of life.
///
/// libssh2's own keepalive would leave every answer in its packet list for ever, or ask for none.
///
/// A value without I/O: it is told what happened and when (the loop's clock, in nanoseconds), and says what to do.
struct DeadPeerDetection {
    /// What to do when the timer has fired.
    enum Action: Equatable {
        /// Have the timer fire again; nil: not before something is sent.
        case wait(Duration?)
        /// Ask the server, which usually has this long for it; then ``asked(at:timeout:)``.
        case ask(timeout: Duration)
        /// It has said nothing for so long, and did not answer a question within its time.
        case lost(silence: Duration, timeout: Duration)
    }

    private let settings: SSHSessionConfiguration.KeepAlive
    private var lastReceived: UInt64
    private var lastSent: UInt64 = 0
    /// When it was asked, and the time it has; nil while nothing is asked.
    private var question: (since: UInt64, timeout: Duration)?
    /// The timer fires for the short silence.
    private var isWatchful = false

    init(_ settings: SSHSessionConfiguration.KeepAlive, now: UInt64) {
        self.settings = settings
        lastReceived = now
    }

    /// When to look for the first time; nil: not before something is sent.
    var firstPause: Duration? { settings.interval }

    mutating func received(at now: UInt64) {
        lastReceived = now
        question = nil
    }

    /// Returns when the timer has to fire now; nil: as it is.
    mutating func sent(at now: UInt64, hasStreams: Bool) -> Duration? {
        lastSent = now
        guard !isWatchful, question == nil, let busy = settings.whileWaiting, hasStreams else { return nil }
        isWatchful = true
        return busy.interval
    }

    mutating func fired(at now: UInt64, hasStreams: Bool) -> Action {
        let silence = Self.duration(from: lastReceived, to: now)
        if let question {
            let waited = Self.duration(from: question.since, to: now)
            guard waited >= question.timeout else { return .wait(question.timeout - waited) }
            return .lost(silence: silence, timeout: question.timeout)
        }
        let isOwed = lastSent > lastReceived && hasStreams
        if isOwed, let busy = settings.whileWaiting, silence >= busy.interval {
            isWatchful = false
            return .ask(timeout: busy.timeout)
        }
        if let interval = settings.interval, silence >= interval {
            isWatchful = false
            return .ask(timeout: settings.timeout)
        }
        let pauses = [isOwed ? settings.whileWaiting?.interval : nil, settings.interval].compactMap { $0 }
        isWatchful = isOwed
        return .wait(pauses.min().map { max($0 - silence, .milliseconds(10)) })
    }

    /// Whether it has been asked, and may still answer.
    var isAsked: Bool { question != nil }

    /// The server was asked; the timer has to fire after `timeout`.
    mutating func asked(at now: UInt64, timeout: Duration) { question = (now, timeout) }

    private static func duration(from start: UInt64, to end: UInt64) -> Duration {
        .nanoseconds(Int64(clamping: end &- start))
    }
}
