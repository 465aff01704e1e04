import CLibSSH2
import Glibc
import MeshIdentity
import Streams

extension SSHSession {
    /// Has the server connect to `host:port` (RFC 4254 §7.2).
    ///
    /// libssh2 opens one channel at a time: behind a destination that does not answer, others wait, each at most its own
    /// ``SSHSessionConfiguration/requestTimeout``.
    ///
    /// sshd turns off Nagle's algorithm when a connection has run its first command: on one that never ran any, a stream that
    /// is sent and finished at once takes 40 ms more to end. Run something (the probe will do) before streams matter.
    ///
    /// - Parameters:
    ///   - host: A name or address as the server knows it.
    ///   - completion: Called once, on the loop, never from inside this call. The failure's code is `.denied` where the
    ///     server's configuration forbids it, `.refused` where nothing listens, `.timedOut` without an answer.
    ///   - port: 1–65535.
    func openChannel(
        toHost host: String,
        port: UInt16,
        completion: @escaping (Result<SSHChannel, StreamError>) -> Void
    ) {
        var message = SSHWireWriter()
        message.string(host)
        message.uint32(UInt32(port))
        // The originator is for the server's log.
        message.string("127.0.0.1")
        message.uint32(0)
        let destination = host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
        let opening = ChannelOpening(
            .directTCPIP(destination: destination),
            type: "direct-tcpip",
            message: message.bytes,
            window: ChannelWindow.initial
        ) { completion($0.mapError(\.streamError)) }
        open(opening, "the connection to \(destination)")
    }

    /// Has the server connect to a Unix socket (OpenSSH's PROTOCOL §2.4).
    func openChannel(toUnixSocket path: String, completion: @escaping (Result<SSHChannel, StreamError>) -> Void) {
        var message = SSHWireWriter()
        message.string(path)
        // Reserved, both.
        message.string("")
        message.uint32(0)
        let opening = ChannelOpening(
            .directStreamLocal(path: path),
            type: "direct-streamlocal@openssh.com",
            message: message.bytes,
            window: ChannelWindow.initial
        ) { completion($0.mapError(\.streamError)) }
        open(opening, "the connection to \(path)")
    }

    /// Opens a session channel and starts a command or subsystem on it.
    func startProcess(
        _ type: String,
        _ argument: String,
        window: Int,
        completion: @escaping (Result<SSHProcess, SSHError>) -> Void
    ) {
        let opening = ChannelOpening(.session, type: "session", window: window) { [unowned self] result in
            switch result {
            case .failure(let error): completion(.failure(error))
            case .success(let channel):
                request(type, argument, on: channel) { [unowned self] result in
                    completion(result.map { SSHChannelProcess($0, session: self) })
                }
            }
        }
        open(opening, "opening an SSH session")
    }

    private func open(_ opening: ChannelOpening, _ what: String) {
        loop.preconditionInLoop()
        guard isOpen else {
            let error = failure ?? SSHError(.closed, "the SSH session with \(peerDescription) is not open")
            return later { opening.completion?(.failure(error)) }
        }
        let timer = LoopTimer(on: loop) { [weak self, weak opening] in
            guard let self, let opening, let completion = opening.completion else { return }
            opening.completion = nil
            waitingOpenings.removeAll { $0 === opening }
            completion(
                .failure(
                    SSHError(
                        .timedOut,
                        "\(what) through \(peerDescription) got no answer within \(configuration.requestTimeout)"
                    )
                )
            )
        }
        opening.timer = timer
        timer.schedule(after: configuration.requestTimeout)
        waitingOpenings.append(opening)
        scheduleDrive()
    }

    /// Asks for something the server must answer, unless something is being asked already. Returns whether it was.
    func startHousekeeping() -> Bool {
        guard currentOpening == nil, waitingOpenings.isEmpty else { return false }
        waitingOpenings.append(
            ChannelOpening(.signOfLife, type: "sign-of-life@bootstrap", window: 4096, completion: nil)
        )
        scheduleDrive()
        return true
    }

    /// Returns whether one was answered.
    func stepOpenings() -> Bool {
        if currentOpening == nil && !waitingOpenings.isEmpty {
            let next = waitingOpenings.removeFirst()
            next.window = windows.opening(next.window)
            currentOpening = next
            openingSince = 0
        }
        guard let opening = currentOpening else { return false }
        if openingSince == 0 { openingSince = loop.now }
        let raw = opening.message.withUnsafeBytes { message in
            libssh2_channel_open_ex(
                library.raw,
                opening.type,
                UInt32(opening.type.utf8.count),
                UInt32(opening.window / 2),
                SSHChannel.maximumPacket,
                message.bindMemory(to: CChar.self).baseAddress,
                UInt32(message.count)
            )
        }
        if let raw {
            currentOpening = nil
            measuredRoundTrip(loop.now &- openingSince)
            accept(raw, for: opening)
            return true
        }
        let code = library.lastError
        guard code != LIBSSH2_ERROR_EAGAIN else { return false }
        currentOpening = nil
        opening.timer?.cancel()
        if code == LIBSSH2_ERROR_CHANNEL_FAILURE { measuredRoundTrip(loop.now &- openingSince) }
        guard !LibSSH2.isFatal(code) else {
            let error = error(code)
            if let completion = opening.completion { later { completion(.failure(error)) } }
            endLater(error)
            return false
        }
        if let completion = opening.completion {
            let error =
                code == LIBSSH2_ERROR_CHANNEL_FAILURE
                ? opening.refusal(library.lastErrorMessage, peer: peerDescription)
                : SSHError(.timedOut, "\(peerDescription): \(library.lastErrorMessage)")
            later { completion(.failure(error)) }
        }
        return true
    }

    private func accept(_ raw: OpaquePointer, for opening: ChannelOpening) {
        opening.timer?.cancel()
        let description: String
        switch opening.kind {
        case .directTCPIP(let destination): description = "\(destination) through \(peerDescription)"
        case .directStreamLocal(let path): description = "\(path) through \(peerDescription)"
        case .session, .signOfLife: description = peerDescription
        }
        let channel = SSHChannel(raw, session: self, window: opening.window, peerDescription: description)
        guard let completion = opening.completion else {
            // Nobody waits any more.
            closingChannels.append(channel)
            return
        }
        channels.append(channel)
        later { completion(.success(channel)) }
    }

    /// The server may be busy, or have to connect somewhere first: the shortest answer is the nearest to the truth.
    private func measuredRoundTrip(_ time: UInt64) {
        if roundTripTime == 0 || time < roundTripTime { roundTripTime = time }
    }

    // MARK: Requests

    private func request(
        _ type: String,
        _ argument: String,
        on channel: SSHChannel,
        _ completion: @escaping (Result<SSHChannel, SSHError>) -> Void
    ) {
        let timer = LoopTimer(on: loop) { [weak self] in
            guard let self, let index = pendingRequests.firstIndex(where: { $0.channel === channel }) else { return }
            pendingRequests.remove(at: index)
            let error = SSHError(
                .timedOut,
                "\(peerDescription) did not answer to \(type) within \(configuration.requestTimeout)"
            )
            channel.reset(error.streamError)
            completion(.failure(error))
        }
        timer.schedule(after: configuration.requestTimeout)
        pendingRequests.append(
            ChannelRequest(
                channel: channel,
                type: type,
                argument: argument,
                completion: { completion($0.map { .failure($0) } ?? .success(channel)) },
                timer: timer
            )
        )
        scheduleDrive()
    }

    /// Returns whether one was answered.
    func stepRequests() -> Bool {
        guard !pendingRequests.isEmpty else { return false }
        var progress = false
        var index = 0
        while index < pendingRequests.count && phase == .open {
            let request = pendingRequests[index]
            let result = request.channel.start(request.type, request.argument)
            guard result != LIBSSH2_ERROR_EAGAIN else {
                index += 1
                continue
            }
            pendingRequests.remove(at: index)
            request.timer.cancel()
            progress = true
            if result == 0 {
                later { request.completion(nil) }
            } else if LibSSH2.isFatal(result) {
                let error = error(result)
                later { request.completion(error) }
                endLater(error)
                return false
            } else {
                let what = request.type == "exec" ? "run commands" : "have the subsystem '\(request.argument)'"
                let error = SSHError(.requestDenied, "\(peerDescription) does not \(what)")
                request.channel.reset(error.streamError)
                later { request.completion(error) }
            }
        }
        return progress
    }

    // MARK: Closing

    /// The channel's owner is done with it.
    func release(_ channel: SSHChannel) {
        guard phase != .ended else { return }
        channels.removeAll { $0 === channel }
        closingChannels.append(channel)
        scheduleDrive()
    }

    func stepClosing() {
        guard !closingChannels.isEmpty else { return }
        closingChannels.removeAll { channel in
            guard channel.stepClose() else { return false }
            windows.change(by: -channel.announced)
            return true
        }
    }

    /// The session is over: everything that waits fails, every channel is told.
    func endChannels(_ error: SSHError, wasOpen: Bool) {
        var openings = waitingOpenings
        if let currentOpening { openings.insert(currentOpening, at: 0) }
        let requests = pendingRequests
        let ports = waitingPorts
        let channels = channels
        waitingOpenings = []
        currentOpening = nil
        pendingRequests = []
        waitingPorts = []
        self.ports = []
        self.channels = []
        closingChannels = []
        for opening in openings {
            opening.timer?.cancel()
            if let completion = opening.completion { later { completion(.failure(error)) } }
        }
        for request in requests {
            request.timer.cancel()
            later { request.completion(error) }
        }
        for port in ports {
            port.timer?.cancel()
            if let completion = port.completion { later { completion(.failure(error)) } }
        }
        for channel in channels { channel.sessionEnded(error.streamError) }
    }
}
