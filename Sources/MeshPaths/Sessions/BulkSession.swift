import Logging
import Platform
import SSHSignal
import Streams

/// The session that takes the bulk streams of path `ssh`, by the user's own `ssh` program. Confined to its event loop.
///
/// libssh2 enciphers 16 bytes a call and has no AES-GCM in Debian 12, so that its bulk costs twice the CPU time; but a
/// round trip through the program's process takes a third longer. A stream cannot move, and nobody knows what it will
/// carry. So the first ones go by libssh2, and the next one to a destination goes where the last one should have gone.
final class BulkSession {
    private let login: SSHLogin
    private let longRoundTrip: Duration
    private let loop: EventLoop
    private let logger: Logger
    private var session: SharedSession?
    /// Whose last stream was bulk, the latest at the end.
    private var destinations: [Authority] = []
    /// When the session was last wanted; on the loop's clock.
    private var lastUse: UInt64 = 0
    private var isConnecting = false
    /// On the loop's clock; ``UInt64/max`` after a refusal.
    private var dialsAgainAt: UInt64 = 0
    private var isClosed = false
    private lazy var idleTimer = LoopTimer(on: loop) { [weak self] in self?.idle() }

    /// More would be somebody who scans.
    private static let maximumDestinations = 64
    /// Without bulk for so long, the `ssh` process is ended.
    private static let idleTimeout = Duration.seconds(300)
    /// After a login that has failed.
    private static let pause = Duration.seconds(60)

    /// - Parameters:
    ///   - login: By which the first session was made.
    ///   - longRoundTrip: From where on windows are the limit, and libssh2's are the larger ones.
    ///   - loop: Where it lives.
    ///   - logger: Told of the session.
    init(_ login: SSHLogin, below longRoundTrip: Duration, on loop: EventLoop, logger: Logger) {
        self.login = login
        self.longRoundTrip = longRoundTrip
        self.loop = loop
        self.logger = logger
    }

    /// Whether there is a session, or one is on its way.
    var isInUse: Bool { session != nil }

    /// Where the next stream to `destination` is opened; nil: as any other.
    func connection(for destination: Authority) -> (any SSHConnection)? {
        guard let open = session?.open, destinations.contains(destination) else { return nil }
        lastUse = loop.now
        return open
    }

    /// A stream to `destination` has turned out to carry `traffic`.
    ///
    /// - Parameter first: A session by libssh2 that is open, if there is one and there may be another.
    func note(_ traffic: StreamTraffic, to destination: Authority, beside first: (any SSHConnection)?) {
        destinations.removeAll { $0 == destination }
        guard traffic == .bulk, !isClosed else { return }
        destinations.append(destination)
        if destinations.count > Self.maximumDestinations { destinations.removeFirst() }
        lastUse = loop.now
        if let first { connect(beside: first) }
    }

    func disconnect() {
        let ended = session
        session = nil
        ended?.close()
        destinations = []
        isConnecting = false
        idleTimer.cancel()
    }

    func close() {
        isClosed = true
        disconnect()
    }

    // MARK: -

    private func connect(beside first: any SSHConnection) {
        guard session == nil, !isConnecting, loop.now >= dialsAgainAt, let roundTrip = first.shortestRoundTrip,
            roundTrip < longRoundTrip, let login = login.repeatedByOpenSSH(first)
        else { return }
        isConnecting = true
        let session = SharedSession(login, on: loop)
        self.session = session
        session.onEnd = { [weak self, weak session] _, error in
            guard let self, let session, self.session === session else { return }
            self.session = nil
            failed(error.message)
        }
        session.connect { [weak self, weak session] result in
            guard let self, let session, self.session === session else { return }
            isConnecting = false
            switch result {
            case .success(let connection):
                observe(connection)
                idleTimer.schedule(after: Self.idleTimeout)
                logger.debug(
                    "bulk goes by way of the ssh program",
                    metadata: ["peer": "\(connection.peerDescription)"]
                )
            case .failure(let error):
                self.session = nil
                // Servers count refusals; and an old ssh stays old.
                if let code = session.lastError?.code,
                    [.authenticationRefused, .hostKeyRefused, .unsupported].contains(code)
                {
                    dialsAgainAt = .max
                }
                failed(error.message)
            }
        }
    }

    /// Told of what the streams of a session carry.
    var onTraffic: ((ByteStream, StreamTraffic) -> Void)?

    private func observe(_ connection: any SSHConnection) {
        (connection as? any TrafficReporting)?.onTraffic = { [weak self] stream, traffic in
            self?.onTraffic?(stream, traffic)
        }
    }

    private func failed(_ reason: String) {
        dialsAgainAt = max(dialsAgainAt, loop.now &+ UInt64(Self.pause.components.seconds) * 1_000_000_000)
        logger.debug("no session by the ssh program for bulk", metadata: ["reason": "\(reason)"])
    }

    private func idle() {
        guard let open = session?.open else { return }
        let limit = UInt64(Self.idleTimeout.components.seconds) * 1_000_000_000
        if open.streamCount == 0 && loop.now &- lastUse >= limit {
            disconnect()
        } else {
            idleTimer.schedule(after: Self.idleTimeout)
        }
    }
}
