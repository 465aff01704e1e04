import CLibSSH2
import Streams

extension SSHSession {
    /// As many connections may wait until this side's turn comes; more are refused by libssh2.
    private static let backlog: Int32 = 64
    /// libssh2 opens the channels of accepted connections with a window of its own choice.
    private static let acceptedWindow = 2 << 20

    func startListening(_ listener: RemoteListener) {
        loop.preconditionInLoop()
        guard isOpen else {
            let error = failure ?? SSHError(.closed, "the SSH session with \(peerDescription) is not open")
            return later { listener.completion?(.failure(error)) }
        }
        let timer = LoopTimer(on: loop) { [weak self, weak listener] in
            guard let self, let listener, let completion = listener.completion else { return }
            listener.completion = nil
            completion(
                .failure(
                    SSHError(
                        .timedOut,
                        "\(peerDescription) did not answer within \(configuration.requestTimeout) whether it listens on "
                            + listener.port.description
                    )
                )
            )
        }
        timer.schedule(after: configuration.requestTimeout)
        listener.timer = timer
        waitingListeners.append(listener)
        scheduleDrive()
    }

    func endListening(host: String, port: UInt16) {
        loop.preconditionInLoop()
        guard isOpen,
            let index = listeners.firstIndex(where: { $0.port.host == host && $0.bound == port })
        else { return }
        endingListeners.append(listeners.remove(at: index))
        scheduleDrive()
    }

    /// Tells the server, which gives no answer, and resets what it has accepted and nobody has taken.
    private func stepEndingListeners() {
        while let listener = endingListeners.first {
            if let raw = listener.raw, libssh2_channel_forward_cancel(raw) == LIBSSH2_ERROR_EAGAIN { return }
            endingListeners.removeFirst()
        }
    }

    /// Returns whether one was answered. libssh2 asks for one port at a time.
    func stepListeners() -> Bool {
        stepEndingListeners()
        guard let listener = waitingListeners.first else { return false }
        let port = listener.port
        var bound: Int32 = 0
        let raw = libssh2_channel_forward_listen_ex(library.raw, port.host, Int32(port.port), &bound, Self.backlog)
        if raw == nil && library.lastError == LIBSSH2_ERROR_EAGAIN { return false }
        waitingListeners.removeFirst()
        listener.timer?.cancel()
        let completion = listener.completion
        listener.completion = nil
        guard let raw else {
            let code = library.lastError
            let isFatal = LibSSH2.isFatal(code)
            let error = isFatal ? error(code) : port.refusal(by: peerDescription, user: configuration.user)
            if let completion { later { completion(.failure(error)) } }
            if isFatal { endLater(error) }
            return true
        }
        listener.raw = raw
        // The server names the port only where it chose it.
        let number = port.port == 0 ? UInt16(clamping: bound) : port.port
        listener.bound = number
        listeners.append(listener)
        if let completion {
            later { completion(.success(number)) }
        }
        return true
    }

    /// Takes the connections that have arrived at the server's ports.
    func acceptConnections() {
        for listener in listeners {
            guard let raw = listener.raw else { continue }
            while phase == .open, let raw = libssh2_channel_forward_accept(raw) {
                let channel = SSHChannel(
                    raw,
                    session: self,
                    window: Self.acceptedWindow,
                    openedWith: Self.acceptedWindow,
                    peerDescription: "a client of port \(listener.port) of \(peerDescription)"
                )
                channels.append(channel)
                later { listener.accept(channel) }
            }
        }
    }
}
