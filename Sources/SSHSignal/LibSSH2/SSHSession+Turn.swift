import CLibSSH2
package import Streams

/// A session's turn of its loop.
extension SSHSession {
    // MARK: Driving

    /// At most this much is read in one turn, so that other connections of the loop get theirs: two full buffers.
    private static let fillsPerTurn = 2

    /// Runs the session's turn soon.
    func scheduleDrive() {
        guard !driveScheduled else { return }
        driveScheduled = true
        driveTask.hold()
        loop.nextTurn(driveTask)
    }

    func scheduleFlush() {
        guard !flushScheduled, !library.outbound.isEmpty else { return }
        flushScheduled = true
        flushTask.hold()
        loop.atEndOfTurn(flushTask)
    }

    /// Runs `work` once libssh2 and the channels are done with this turn.
    func later(_ work: @escaping () -> Void) {
        deferred.append(work)
        if !isProcessing { scheduleDrive() }
    }

    /// Ends the session at the end of this turn: what calls this may be inside a method of a channel.
    func endLater(_ error: SSHError) {
        guard endingError == nil, phase != .ended else { return }
        endingError = error
        scheduleDrive()
    }

    func runDrive() {
        driveScheduled = false
        drive()
        if phase == .ended { runDeferred() }
    }

    func drive() {
        guard phase != .ended, !isProcessing else { return }
        if library.hasInbound || lowerEnded { process() } else { fillAndProcess() }
    }

    private func fillAndProcess() {
        var fills = 0
        while phase != .ended && !library.hasInbound {
            guard fills < Self.fillsPerTurn else { return scheduleDrive() }
            switch library.fill(from: lower) {
            case .bytes:
                fills += 1
                noteReceived()
                process()
            case .wouldBlock:
                if fills == 0 { process() }
                return
            case .end:
                lowerEnded = true
                process()
                return end(connectionLost(nil))
            case .failed:
                process()
                return end(connectionLost(lower.failure))
            }
        }
    }

    /// Repeats every libssh2 call that waits, takes in all packets, then tells the channels.
    private func process() {
        guard phase != .ended else { return }
        isProcessing = true
        library.mayReceive = true
        var progress = true
        while progress && endingError == nil && phase != .ended {
            progress = stepPendingCall()
            if phase == .open && endingError == nil {
                progress = stepOpenings() || progress
                progress = stepRequests() || progress
                progress = stepListeners() || progress
                stepClosing()
                acceptConnections()
                takeIn()
                progress = progress || (library.hasInbound && startHousekeeping())
            }
        }
        library.mayReceive = false
        if phase == .open && endingError == nil { pollChannels() }
        isProcessing = false
        scheduleFlush()
        if let endingError { end(endingError) }
        runDeferred()
    }

    func runDeferred() {
        while !deferred.isEmpty {
            let work = deferred
            deferred = []
            for item in work { item() }
        }
    }

    private func stepPendingCall() -> Bool {
        guard let pending = pendingCall else { return false }
        let result = pending.call()
        guard result != LIBSSH2_ERROR_EAGAIN else { return false }
        pendingCall = nil
        if library.watchesAuthentication { showBanners() }
        pending.then(result)
        return true
    }

    /// Before whatever a person is asked.
    private func showBanners() {
        for banner in library.takeBanners() where !banner.lines.isEmpty {
            configuration.banner?(banner.lines.joined(separator: "\n"))
        }
    }

    func perform(_ call: @escaping () -> Int32, then: @escaping (Int32) -> Void) {
        precondition(pendingCall == nil, "one call at a time")
        pendingCall = (call, then)
        if !isProcessing { scheduleDrive() }
    }

    func abandonCall() { pendingCall = nil }

    /// Lets libssh2 process what has arrived. It reads from the network only on behalf of some channel; any will do
    /// that has not ended.
    private func takeIn() {
        if !takeIn(for: channels) { _ = takeIn(for: closingChannels) }
    }

    private func takeIn(for channels: [SSHChannel]) -> Bool {
        for channel in channels {
            switch channel.takeIn() {
            case LIBSSH2_ERROR_EAGAIN: return true
            case let result where LibSSH2.isFatal(result):
                endLater(error(result))
                return true
            default: continue
            }
        }
        return false
    }

    /// Tells the channels what is new. A different one is the first each time: one that always has something to send
    /// does not take all of the room.
    private func pollChannels() {
        let channels = channels
        guard !channels.isEmpty else { return }
        firstPolled = (firstPolled &+ 1) % channels.count
        for index in channels.indices { channels[(firstPolled + index) % channels.count].poll() }
    }

    // MARK: Flushing

    func runFlush() {
        flushScheduled = false
        flush()
        // Writers that were refused go on once there is room.
        if phase == .open && hasRoom && channels.contains(where: \.writerWaits) { scheduleDrive() }
    }

    /// Sends what libssh2 has produced, as far as the lower stream takes it.
    func flush() {
        while !library.outbound.isEmpty {
            switch library.outbound.withVectors({ lower.write($0) }) {
            case .bytes(let count):
                library.outbound.consume(count)
                noteSent()
            case .wouldBlock: return
            case .failed: return endLater(connectionLost(lower.failure))
            }
        }
    }

    /// Whether channels may write: libssh2 itself never says no.
    var hasRoom: Bool { library.outbound.count < configuration.maximumBacklog }

    /// Whether a few bytes may be written: a keystroke need not wait for the room that bulk has used up.
    func hasRoom(for count: Int) -> Bool {
        hasRoom || count <= Self.keystroke && library.outbound.count < configuration.maximumBacklog + Self.keystrokes
    }

    private static let keystroke = 4096
    /// All of them together, so that many small writes are not a way around the limit.
    private static let keystrokes = 64 << 10
}

extension SSHSession: StreamObserver {
    package func streamReadable(_ stream: ByteStream) { drive() }

    package func streamWritable(_ stream: ByteStream) {
        flush()
        drive()
    }

    package func streamFailed(_ stream: ByteStream) { end(connectionLost(stream.failure)) }
}

/// One of a session's two entries in its loop's turn. Keeps the session alive while it waits for its turn, so that no
/// completion is lost.
final class SessionTask: TurnTask {
    private weak var session: SSHSession?
    private var held: SSHSession?
    private let work: (SSHSession) -> Void

    init(_ session: SSHSession, _ work: @escaping (SSHSession) -> Void) {
        self.session = session
        self.work = work
    }

    func hold() { held = session }

    func runTurn() {
        guard let session = held else { return }
        held = nil
        work(session)
    }
}
