import CLibSSH2
import Streams

/// How long a session waits, and how it ends.
extension SSHSession {
    // MARK: Patience

    func startPhaseTimer(_ timeout: Duration, _ what: String) {
        phaseTimer?.cancel()
        let timer = LoopTimer(on: loop) { [weak self] in
            guard let self else { return }
            if let stranger { return end(stranger) }
            end(SSHError(.timedOut, "\(what) with \(lower.peerDescription) got no answer within \(timeout)"))
        }
        phaseTimer = timer
        timer.schedule(after: timeout)
    }

    func stopPhaseTimer() {
        phaseTimer?.cancel()
        phaseTimer = nil
    }

    // MARK: Ending

    /// What happened to the connection, in words: the server's own where it said something.
    func connectionLost(_ cause: StreamError?) -> SSHError {
        if let stranger { return stranger }
        if phase == .handshaking && library.serverVersion?.hasPrefix("SSH-") != true {
            // sshd answers "Exceeded MaxStartups" or "Not allowed at this time" where its banner would be.
            let said = library.serverVersion.map { "'\($0)'" } ?? cause?.message
            return SSHError(
                .busy,
                "\(lower.peerDescription) closed the connection before its SSH banner"
                    + "\(said.map { " (\($0))" } ?? ""): the server is busy (MaxStartups), refuses this address for a "
                    + "while (PerSourcePenalties), or is no SSH server. Try again in a minute"
            )
        }
        let why = library.disconnectMessage.map { "the server said: \($0)" } ?? cause?.message ?? "the server closed it"
        if let authenticator, phase == .authenticating { return authenticator.connectionEnded(why) }
        return SSHError(.connectionLost, "the SSH connection with \(peerDescription) was lost: \(why)")
    }

    /// What listens there has said something, and it is not SSH's.
    private var stranger: SSHError? {
        guard phase == .handshaking, let said = ServerOpening.stranger(in: library.opening) else { return nil }
        return SSHError(
            .connectionFailed,
            "\(lower.peerDescription) does not speak SSH (it said: \(said)): another program listens on this port, "
                + "or something on the way answers in its place. -p names sshd's port"
        )
    }

    var isCut: Bool { lowerEnded || library.disconnectMessage != nil }

    /// A fatal error of libssh2 in words.
    func error(_ code: Int32) -> SSHError {
        if isCut { return connectionLost(nil) }
        if let stranger { return stranger }
        let text = library.lastErrorMessage
        return SSHError(.protocolViolation, "SSH with \(peerDescription): \(text) (libssh2 error \(code))")
    }

    func end(_ error: SSHError) {
        guard phase != .ended else { return }
        let isOurs = error.code == .closed || error.code == .hostKeyRefused || error.code == .authenticationRefused
        if isOurs && !lowerEnded && lower.failure == nil {
            let (reason, text) =
                error.code == .hostKeyRefused
                ? (SSH_DISCONNECT_HOST_KEY_NOT_VERIFIABLE, "Host key verification failed")
                : (SSH_DISCONNECT_BY_APPLICATION, "disconnected by user")
            libssh2_session_disconnect_ex(library.raw, reason, text, "")
            flush()
        }
        phase = .ended
        failure = error
        stopPhaseTimer()
        stopDeadPeerDetection()
        pendingCall = nil
        authenticator?.stop()
        authenticator = nil
        endChannels(error)
        library.detach()
        lower.observer = nil
        if isOurs {
            lower.finish()
            lower.close()
        } else {
            lower.reset(error.streamError)
        }
        let established = established
        self.established = nil
        let onEnd = onEnd
        self.onEnd = nil
        established?(.failure(error))
        onEnd?(error)
        if !isProcessing { runDeferred() }
    }
}
