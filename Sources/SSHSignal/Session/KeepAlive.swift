import Streams

/// Finds out whether the server is still there: after a silence it is asked for something that it must answer.
///
/// libssh2's own keepalive would leave every answer in its packet list for ever, or ask for none.
final class KeepAlive {
    private unowned let session: SSHSession
    private let interval: Duration
    private let timeout: Duration
    private var lastReceived: UInt64
    private var isAsking = false
    private var timer: LoopTimer?

    init(_ session: SSHSession, interval: Duration, timeout: Duration) {
        self.session = session
        self.interval = interval
        self.timeout = timeout
        lastReceived = session.loop.now
        let timer = LoopTimer(on: session.loop) { [weak self] in self?.fired() }
        self.timer = timer
        timer.schedule(after: interval)
    }

    func received() {
        lastReceived = session.loop.now
        isAsking = false
    }

    func stop() { timer?.cancel() }

    private func fired() {
        let silence = Duration.nanoseconds(Int64(clamping: session.loop.now - lastReceived))
        if isAsking {
            return session.end(
                SSHError(
                    .connectionLost,
                    "the SSH connection with \(session.peerDescription) is dead: nothing received for \(silence)"
                )
            )
        }
        if silence >= interval {
            isAsking = session.startHousekeeping()
            timer?.schedule(after: isAsking ? timeout : interval)
        } else {
            timer?.schedule(after: interval - silence)
        }
    }
}
