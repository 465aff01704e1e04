import CLibSSH2
import Streams

extension SSHSession {
    /// Has the server connect to what `kind` says (RFC 4254 §7.2).
    ///
    /// libssh2 opens one channel at a time: behind a destination that does not answer, others wait, each at most its
    /// own ``SSHSessionConfiguration/requestTimeout``, unless ``onHeldUp`` finds another session for them.
    ///
    /// sshd turns off Nagle's algorithm when a connection has run its first command: on one that never ran any, a
    /// stream that is sent and finished at once takes 40 ms more to end. Run something (the probe will do) before
    /// streams matter.
    ///
    /// - Parameter completion: Called once, on the loop, never from inside this call. The failure's code is `.denied`
    ///   where the server's configuration forbids it, `.refused` where nothing listens, `.timedOut` without an answer.
    func openStream(_ kind: ChannelKind, completion: @escaping (Result<ByteStream, StreamError>) -> Void) {
        open(
            ChannelOpening(kind, window: ChannelWindow.initial) { completion($0.map { $0 }.mapError(\.streamError)) }
        )
    }

    /// Opens a session channel and starts a command or subsystem on it.
    func startProcess(_ request: ProcessRequest, completion: @escaping (Result<SSHProcess, SSHError>) -> Void) {
        open(
            ChannelOpening(.session, window: request.window) { [unowned self] result in
                switch result {
                case .failure(let error): completion(.failure(error))
                case .success(let channel): ask(request, on: channel) { completion($0.map { SSHProcess($0) }) }
                }
            }
        )
    }

    private func open(_ opening: ChannelOpening) {
        loop.preconditionInLoop()
        guard isOpen else {
            let error = failure ?? SSHError(.closed, "the SSH session with \(peerDescription) is not open")
            return later { opening.completion?(.failure(error)) }
        }
        let timer = LoopTimer(on: loop) { [weak self, weak opening] in
            guard let self, let opening, let completion = opening.completion else { return }
            opening.completion = nil
            waitingOpenings.removeAll { $0 === opening }
            completion(.failure(timedOut(opening)))
        }
        opening.timer = timer
        timer.schedule(after: configuration.requestTimeout)
        waitingOpenings.append(opening)
        scheduleDrive()
        if isHeldUp { later { [weak self] in self?.reportHeldUp() } }
    }

    /// One that was never asked for has waited for another's answer: its own destination is not to blame.
    private func timedOut(_ opening: ChannelOpening) -> SSHError {
        let limit = configuration.requestTimeout
        guard let current = currentOpening, current !== opening else {
            return opening.kind.timedOut(after: limit, peer: peerDescription)
        }
        return SSHError(
            .timedOut,
            "\(opening.kind.what) through \(peerDescription) was not asked for within \(limit): the server opens one at a "
                + "time here, and has not answered for \(current.kind.what)"
        )
    }

    // MARK: Held up

    /// Longer than any server takes to answer that connects to somebody who answers.
    static var heldUpAfter: Duration { .milliseconds(500) }

    func watchOpening() {
        heldUpTimer.cancel()
        isHeldUp = false
        if currentOpening != nil { heldUpTimer.schedule(after: Self.heldUpAfter) }
    }

    func heldUp() {
        guard currentOpening != nil, phase == .open else { return }
        isHeldUp = true
        reportHeldUp()
    }

    private func reportHeldUp() {
        if isHeldUp, waitingOpenings.contains(where: { $0.completion != nil }) { onHeldUp?() }
    }

    /// Has another session of the same server open what waits here.
    package func moveWaitingStreams(to other: SSHSession) {
        guard other !== self, other.isOpen else { return }
        let moved = waitingOpenings.filter { $0.completion != nil }
        waitingOpenings.removeAll { $0.completion != nil }
        for opening in moved {
            opening.timer?.cancel()
            other.open(opening)
        }
    }

    /// Asks for something the server must answer, unless something is being asked already. Returns whether it was.
    func startHousekeeping() -> Bool {
        guard currentOpening == nil, waitingOpenings.isEmpty else { return false }
        waitingOpenings.append(ChannelOpening(.signOfLife, window: 4096, completion: nil))
        scheduleDrive()
        return true
    }

    /// Returns whether one was answered.
    func stepOpenings() -> Bool {
        if currentOpening == nil, let index = nextOpening {
            let next = waitingOpenings.remove(at: index)
            next.window = windows.opening(next.window)
            currentOpening = next
            openingSince = 0
        }
        guard let opening = currentOpening else { return false }
        if openingSince == 0 { openingSince = loop.now }
        let type = opening.kind.type
        let raw = opening.kind.message.withUnsafeBytes { message in
            libssh2_channel_open_ex(
                library.raw,
                type,
                UInt32(type.utf8.count),
                UInt32(opening.window / 2),
                ChannelKind.maximumPacket,
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
                ? opening.kind.refusal(library.lastErrorMessage, peer: peerDescription)
                : SSHError(.timedOut, "\(peerDescription): \(library.lastErrorMessage)")
            later { completion(.failure(error)) }
        }
        return true
    }

    /// How long a command counts as one that may end at any moment.
    private static var quickCommand: UInt64 { 500_000_000 }

    /// What may be opened now.
    ///
    /// When a command ends, dropbear looks at all sessions of its connection. One that was opened and not started yet
    /// it takes for one that is over: it closes it, then starts it all the same, and dies of the first byte
    /// (`!channel->sent_close`). So it does when it is told to close a channel whose command has just ended. There a
    /// command waits for the one before it to end, unless that runs for long, and for those that are being ended, and
    /// these for the server to close them; for a while.
    private var nextOpening: Int? {
        guard mixesUpCommands, waitingOpenings.contains(where: \.kind.isSession) else {
            return waitingOpenings.indices.first
        }
        let now = loop.now
        var isHeld = closingChannels.contains(where: \.isCommand)
        var earliest = UInt64.max
        for channel in channels where channel.isCommand && channel.closure == nil {
            let end = channel.startedAt.map { $0 &+ Self.quickCommand }
            if let end, end <= now { continue }
            isHeld = true
            earliest = min(earliest, end ?? .max)
        }
        guard isHeld else { return waitingOpenings.indices.first }
        if earliest < .max { commandTimer.schedule(after: .nanoseconds(Int64(clamping: earliest &- now))) }
        return waitingOpenings.firstIndex { opening in
            guard opening.kind.isSession else { return true }
            guard let patience = opening.patience else {
                let timer = LoopTimer(on: loop) { [weak self] in self?.scheduleDrive() }
                timer.schedule(after: .seconds(5))
                opening.patience = (timer, until: now &+ 5_000_000_000)
                return false
            }
            return now >= patience.until
        }
    }

    /// Whether another command is being started, which the end of this one must not meet.
    func holdsEnd(of channel: SSHChannel) -> Bool {
        guard mixesUpCommands, channel.isCommand else { return false }
        return currentOpening?.kind.isSession == true
            || channels.contains { $0 !== channel && $0.isCommand && $0.startedAt == nil }
    }

    private var mixesUpCommands: Bool { serverVersion?.contains("dropbear") == true }

    private func accept(_ raw: OpaquePointer, for opening: ChannelOpening) {
        opening.timer?.cancel()
        let channel = SSHChannel(
            raw,
            session: self,
            window: opening.window,
            peerDescription: opening.kind.peerDescription(through: peerDescription)
        )
        if case .session = opening.kind { channel.isCommand = true }
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

    private func ask(
        _ request: ProcessRequest,
        on channel: SSHChannel,
        _ completion: @escaping (Result<SSHChannel, SSHError>) -> Void
    ) {
        let timer = LoopTimer(on: loop) { [weak self] in
            guard let self, let index = pendingRequests.firstIndex(where: { $0.channel === channel }) else { return }
            pendingRequests.remove(at: index)
            let error = SSHError(
                .timedOut,
                "\(peerDescription) did not answer to \(request.type) within \(configuration.requestTimeout)"
            )
            channel.reset(error.streamError)
            completion(.failure(error))
        }
        timer.schedule(after: configuration.requestTimeout)
        pendingRequests.append(
            PendingRequest(
                channel: channel,
                request: request,
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
            let pending = pendingRequests[index]
            let result = pending.channel.start(pending.request)
            guard result != LIBSSH2_ERROR_EAGAIN else {
                index += 1
                continue
            }
            pendingRequests.remove(at: index)
            pending.timer.cancel()
            pending.channel.startedAt = loop.now
            progress = true
            if result == 0 {
                later { pending.completion(nil) }
            } else if LibSSH2.isFatal(result) {
                let error = error(result)
                later { pending.completion(error) }
                endLater(error)
                return false
            } else {
                let error = pending.request.denial(by: peerDescription)
                pending.channel.reset(error.streamError)
                later { pending.completion(error) }
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
        let count = closingChannels.count
        closingChannels.removeAll { channel in
            if mixesUpCommands, channel.isCommand {
                guard !holdsEnd(of: channel), channel.isEndedByServer(wake: { [weak self] in self?.scheduleDrive() })
                else {
                    return false
                }
            }
            guard channel.stepClose() else { return false }
            windows.change(by: -channel.announced)
            return true
        }
        if closingChannels.count != count, !waitingOpenings.isEmpty { scheduleDrive() }
    }

    /// The session is over: everything that waits fails, every channel is told.
    func endChannels(_ error: SSHError) {
        var openings = waitingOpenings
        if let currentOpening { openings.insert(currentOpening, at: 0) }
        let requests = pendingRequests
        let listeners = waitingListeners
        let channels = channels
        waitingOpenings = []
        currentOpening = nil
        pendingRequests = []
        waitingListeners = []
        self.listeners = []
        endingListeners = []
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
        for listener in listeners {
            listener.timer?.cancel()
            if let completion = listener.completion { later { completion(.failure(error)) } }
        }
        for channel in channels { channel.sessionEnded(error.streamError) }
    }
}
