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
    package internal(set) var failure: SSHError?
    package var onEnd: ((SSHError) -> Void)?
    package var onWindowLimit: (() -> Void)?
    package var onTraffic: ((ByteStream, StreamTraffic) -> Void)?
    package internal(set) var hostKey: HostKey?
    /// What the login was accepted with, where that is one key and nobody was asked: another login with it will not ask
    /// either.
    var silentKey: SilentKey?

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
    var phaseTimer: LoopTimer?

    /// The libssh2 call of the handshake or the authentication that had to wait, and what follows it.
    var pendingCall: (call: () -> Int32, then: (Int32) -> Void)?

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
    /// Runs while a command waits for another one that may end at any moment.
    lazy var commandTimer = LoopTimer(on: loop) { [weak self] in self?.scheduleDrive() }
    var pendingRequests: [PendingRequest] = []
    /// Ports that the server was not asked for yet, the first one perhaps, and those where it listens.
    var waitingListeners: [RemoteListener] = []
    var listeners: [RemoteListener] = []
    /// Where the server is to listen no longer, and was not told yet.
    var endingListeners: [RemoteListener] = []
    /// What the receive windows of the channels have in common.
    var windows: WindowBudget
    /// The shortest answer to the opening of a channel, in nanoseconds; 0 before the first.
    package internal(set) var roundTripTime: UInt64 = 0
    /// When the current opening was first tried; on the loop's clock.
    var openingSince: UInt64 = 0
    var deadPeer: DeadPeerDetection?
    var deadPeerTimer: LoopTimer?

    /// User code that must not run inside libssh2 or inside a method of a channel.
    var deferred: [() -> Void] = []
    var endingError: SSHError?
    var lowerEnded = false
    var isProcessing = false
    var driveScheduled = false
    var flushScheduled = false
    lazy var driveTask = SessionTask(self) { $0.runDrive() }
    lazy var flushTask = SessionTask(self) { $0.runFlush() }

    /// Where the round of the channels begins.
    var firstPolled = 0

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

    package func stopListening(host: String, port: UInt16) { endListening(host: host, port: port) }

    package func execute(_ command: String, completion: @escaping (Result<SSHProcess, SSHError>) -> Void) {
        startProcess(.command(command), completion: completion)
    }

    package func startSubsystem(_ name: String, completion: @escaping (Result<SSHProcess, SSHError>) -> Void) {
        startProcess(.subsystem(name), completion: completion)
    }
}

extension SSHSession: AuthenticatingSession {}
extension SSHSession: TrafficReporting {}
