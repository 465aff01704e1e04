import Streams

/// Finds out whether the server is still there: after a silence it is asked for something that it must answer.
///
/// Two silences count. Of an idle connection, a long one: a middlebox may have forgotten it. Of one that has sent something
/// since it last heard anything, a short one: somebody waits for an answer, and another path may be there to take over.
/// Any byte from the server is a sign of life.
///
/// libssh2's own keepalive would leave every answer in its packet list for ever, or ask for none.
final class KeepAlive {
    private unowned let session: SSHSession
    private let settings: SSHSessionConfiguration.KeepAlive
    private var lastReceived: UInt64
    private var lastSent: UInt64 = 0
    /// When it was asked, and the time it has; nil while nothing is asked.
    private var question: (since: UInt64, timeout: Duration)?
    /// The timer fires for the short silence.
    private var isWatchful = false
    private var timer: LoopTimer?

    init(_ session: SSHSession, _ settings: SSHSessionConfiguration.KeepAlive) {
        self.session = session
        self.settings = settings
        lastReceived = session.loop.now
        timer = LoopTimer(on: session.loop) { [weak self] in self?.fired() }
        schedule(settings.interval)
    }

    func received() {
        lastReceived = session.loop.now
        question = nil
    }

    func sent() {
        lastSent = session.loop.now
        guard !isWatchful, question == nil, let busy = settings.whileWaiting, !session.channels.isEmpty else { return }
        isWatchful = true
        schedule(busy.interval)
    }

    func stop() { timer?.cancel() }

    private func schedule(_ pause: Duration?) {
        if let pause { timer?.schedule(after: pause) }
    }

    private func fired() {
        let now = session.loop.now
        if let question {
            let waited = Duration.nanoseconds(Int64(clamping: now &- question.since))
            guard waited >= question.timeout else { return schedule(question.timeout - waited) }
            let silence = Duration.nanoseconds(Int64(clamping: now &- lastReceived))
            return session.end(
                SSHError(
                    .connectionLost,
                    "the SSH connection with \(session.peerDescription) is dead: nothing was received for \(silence), "
                        + "and a question was not answered within \(question.timeout)"
                )
            )
        }
        let silence = Duration.nanoseconds(Int64(clamping: now &- lastReceived))
        let isOwed = lastSent > lastReceived && !session.channels.isEmpty
        if isOwed, let busy = settings.whileWaiting, silence >= busy.interval {
            ask(busy.timeout)
        } else if let interval = settings.interval, silence >= interval {
            ask(settings.timeout)
        } else {
            let pauses = [isOwed ? settings.whileWaiting?.interval : nil, settings.interval].compactMap { $0 }
            isWatchful = isOwed
            schedule(pauses.min().map { max($0 - silence, .milliseconds(10)) })
        }
    }

    private func ask(_ timeout: Duration) {
        isWatchful = false
        // What has been asked already is as good a question, but may take the server long: it connects somewhere.
        let isNew = session.startHousekeeping()
        let roundTrip = Duration.nanoseconds(Int64(clamping: session.roundTripTime))
        let timeout = isNew ? max(timeout, roundTrip * 4) : max(timeout, session.configuration.requestTimeout)
        question = (session.loop.now, timeout)
        schedule(timeout)
    }
}
