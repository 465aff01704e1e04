import CLibSSH2
import Glibc
package import Streams

/// One SSH connection that libssh2 drives over any byte stream: key exchange, host key, authentication, then channels.
///
/// ```
///  idle ── establish ──▶ handshaking ──▶ verifyingHostKey ──▶ authenticating ──▶ open ──▶ ended
///              (any state) ── failure, close() ─────────────────────────────────────────────▲
/// ```
///
/// A turn is: read the lower stream into libssh2, repeat every libssh2 call that had to wait, tell the channels, and
/// flush what libssh2 wants sent with one write at the end of the loop's turn. Confined to its event loop, with all its
/// channels; from async code use ``SSHClient``.
package final class SSHSession: SSHConnection {
    package let loop: EventLoop
    package let configuration: SSHSessionConfiguration
    package private(set) var failure: SSHError?
    package var onEnd: ((SSHError) -> Void)?
    package var onWindowLimit: (() -> Void)?
    package internal(set) var hostKey: HostKey?

    enum Phase {
        case idle
        case handshaking
        case verifyingHostKey
        case authenticating
        case open
        case ended
    }

    let lower: ByteStream
    let verifier: any HostKeyVerifier
    let library: LibSSH2Session
    var phase = Phase.idle
    var established: ((Result<Void, SSHError>) -> Void)?
    var authenticator: Authenticator?
    private var phaseTimer: LoopTimer?

    /// The libssh2 call of the handshake or the authentication that had to wait, and what follows it.
    private var pendingCall: (call: () -> Int32, then: (Int32) -> Void)?

    var channels: [SSHChannel] = []
    /// Channels whose owner is done with them, until the server has confirmed.
    var closingChannels: [SSHChannel] = []
    /// libssh2 opens one channel at a time.
    var currentOpening: ChannelOpening? {
        didSet { watchOpening() }
    }
    /// The server has not answered to the current opening for long: it may have to connect to somebody who does not
    /// answer. What is opened next waits behind it.
    package internal(set) var isHeldUp = false
    /// Called while streams wait and ``isHeldUp``; on the loop, not from inside a call. See
    /// ``moveWaitingStreams(to:)``.
    package var onHeldUp: (() -> Void)?
    lazy var heldUpTimer = LoopTimer(on: loop) { [weak self] in self?.heldUp() }
    var waitingOpenings: [ChannelOpening] = []
    var pendingRequests: [PendingRequest] = []
    /// Ports that the server was not asked for yet, the first one perhaps, and those where it listens.
    var waitingListeners: [RemoteListener] = []
    var listeners: [RemoteListener] = []
    /// What the receive windows of the channels have in common.
    var windows: WindowBudget
    /// The shortest answer to the opening of a channel, in nanoseconds; 0 before the first.
    package internal(set) var roundTripTime: UInt64 = 0
    /// When the current opening was first tried; on the loop's clock.
    var openingSince: UInt64 = 0
    var deadPeer: DeadPeerDetection?
    var deadPeerTimer: LoopTimer?

    /// User code that must not run inside libssh2 or inside a method of a channel.
    private var deferred: [() -> Void] = []
    private var endingError: SSHError?
    private var lowerEnded = false
    private var isProcessing = false
    private var driveScheduled = false
    private var flushScheduled = false
    private lazy var driveTask = SessionTask(self) { $0.runDrive() }
    private lazy var flushTask = SessionTask(self) { $0.runFlush() }

    /// Where the round of the channels begins.
    private var firstPolled = 0
    /// At most this much is read in one turn, so that other connections of the loop get theirs: two full buffers.
    private static let fillsPerTurn = 2

    /// - Parameters:
    ///   - lower: A connected stream: a socket, or a channel of another session. The session owns it from now on.
    ///   - configuration: Time-outs and windows.
    ///   - hostKeyVerifier: Decides about the server's key.
    /// - Throws: ``SSHError`` when libssh2 cannot be set up.
    package init(
        over lower: ByteStream,
        configuration: SSHSessionConfiguration,
        hostKeyVerifier: any HostKeyVerifier
    ) throws(SSHError) {
        loop = lower.loop
        self.lower = lower
        self.configuration = configuration
        verifier = hostKeyVerifier
        windows = WindowBudget(total: configuration.totalWindow)
        library = try LibSSH2Session(pool: lower.loop.buffers)
    }

    // MARK: SSHConnection

    package var peerDescription: String { "\(configuration.user)@\(lower.peerDescription)" }

    package var serverVersion: String? { library.serverVersion }

    package var isOpen: Bool { phase == .open && endingError == nil }

    package var streamCount: Int { channels.count + waitingOpenings.count + (currentOpening == nil ? 0 : 1) }

    package var shortestRoundTrip: Duration? {
        roundTripTime == 0 ? nil : .nanoseconds(Int64(clamping: roundTripTime))
    }

    package func close() {
        guard phase != .ended else { return }
        end(SSHError(.closed, "the SSH session with \(peerDescription) was closed"))
    }

    package func openDirectTCPIP(
        host: String,
        port: UInt16,
        completion: @escaping (Result<ByteStream, StreamError>) -> Void
    ) {
        openStream(.directTCPIP(host: host, port: port), completion: completion)
    }

    package func openDirectStreamLocal(
        path: String,
        completion: @escaping (Result<ByteStream, StreamError>) -> Void
    ) {
        openStream(.directStreamLocal(path: path), completion: completion)
    }

    package func listen(
        host: String,
        port: UInt16,
        accept: @escaping (ByteStream) -> Void,
        completion: @escaping (Result<UInt16, StreamError>) -> Void
    ) {
        let port = RemotePort(host: host, port: port)
        startListening(RemoteListener(port, accept: accept) { completion($0.mapError(\.streamError)) })
    }

    package func execute(_ command: String, completion: @escaping (Result<SSHProcess, SSHError>) -> Void) {
        startProcess(.command(command), completion: completion)
    }

    package func startSubsystem(_ name: String, completion: @escaping (Result<SSHProcess, SSHError>) -> Void) {
        startProcess(.subsystem(name), completion: completion)
    }

    // MARK: Driving

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

    private func runDrive() {
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

    private func runDeferred() {
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

    private func runFlush() {
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

    // MARK: Patience

    func startPhaseTimer(_ timeout: Duration, _ what: String) {
        phaseTimer?.cancel()
        let timer = LoopTimer(on: loop) { [weak self] in
            guard let self else { return }
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

    var isCut: Bool { lowerEnded || library.disconnectMessage != nil }

    /// A fatal error of libssh2 in words.
    func error(_ code: Int32) -> SSHError {
        if isCut { return connectionLost(nil) }
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

extension SSHSession: AuthenticatingSession {}

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
private final class SessionTask: TurnTask {
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
