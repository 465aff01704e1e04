import Streams

/// Runs ``DeadPeerDetection``.
extension SSHSession {
    func startDeadPeerDetection() {
        let detection = DeadPeerDetection(configuration.keepAlive, now: loop.now)
        let timer = LoopTimer(on: loop) { [weak self] in self?.deadPeerTimerFired() }
        deadPeer = detection
        deadPeerTimer = timer
        if let pause = detection.firstPause { timer.schedule(after: pause) }
    }

    func stopDeadPeerDetection() {
        deadPeerTimer?.cancel()
        deadPeerTimer = nil
        deadPeer = nil
    }

    /// Bytes have arrived.
    func noteReceived() { deadPeer?.received(at: loop.now) }

    /// Bytes have left.
    func noteSent() {
        if let pause = deadPeer?.sent(at: loop.now, hasStreams: !channels.isEmpty) {
            deadPeerTimer?.schedule(after: pause)
        }
    }

    /// Has the server show now that it is there, whatever it has said before.
    package func askForLife() {
        guard let detection = deadPeer, !detection.isAsked else { return }
        ask(timeout: configuration.keepAlive.whileWaiting?.timeout ?? configuration.keepAlive.timeout)
    }

    private func ask(timeout: Duration) {
        // What has been asked already is as good a question, but may take the server long: it connects somewhere.
        let isNew = startHousekeeping()
        let roundTrip = Duration.nanoseconds(Int64(clamping: roundTripTime))
        let patience = max(timeout, isNew ? roundTrip * 4 : configuration.requestTimeout)
        deadPeer?.asked(at: loop.now, timeout: patience)
        deadPeerTimer?.schedule(after: patience)
    }

    private func deadPeerTimerFired() {
        switch deadPeer?.fired(at: loop.now, hasStreams: !channels.isEmpty) {
        case .wait(let pause): if let pause { deadPeerTimer?.schedule(after: pause) }
        case .ask(let timeout): ask(timeout: timeout)
        case .lost(let silence, let timeout):
            end(
                SSHError(
                    .connectionLost,
                    "the SSH connection with \(peerDescription) is dead: nothing was received for \(silence.wholeMilliseconds), "
                        + "and a question was not answered within \(timeout)"
                )
            )
        case nil: break
        }
    }
}
