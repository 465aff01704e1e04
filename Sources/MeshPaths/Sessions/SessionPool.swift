import Logging
import SSHSignal
import Streams

/// The SSH sessions to a peer, shared by the paths `h2-over-ssh` and `ssh`. Confined to its event loop.
///
/// One is opened when the first stream asks for it, and is enough on a short path. On a long one the receive windows of
/// a session together bound what its streams can receive (`ChannelWindow`), and TCP's own windows do the same: when
/// streams want larger ones than the session has left, another is opened, and new streams go to the session that has
/// the fewest. Another is opened too when a destination that does not answer holds up what is opened after it.
final class SessionPool {
    typealias Completion = (Result<any SSHConnection, StreamError>) -> Void

    /// Told when the last open session has ended by itself.
    var onEnd: ((StreamError) -> Void)?
    /// Told when any session has ended by itself, before ``onEnd``.
    var onSessionEnd: ((any SSHConnection, StreamError) -> Void)?
    /// Told of each session that was opened where there was none.
    var onOpen: ((any SSHConnection) -> Void)? {
        get { first.onOpen }
        set { first.onOpen = newValue }
    }
    /// Told when there is another session beside the first.
    var onGrowth: (() -> Void)?
    /// Told what a stream has turned out to carry; see ``TrafficReporting``.
    var onTraffic: ((ByteStream, StreamTraffic) -> Void)? {
        didSet { bulk?.onTraffic = onTraffic }
    }
    /// For bulk streams; nil where one session has to do.
    let bulk: BulkSession?
    /// Why the last login failed; tells a refused key from an unreachable server.
    var lastError: SSHError? { first.lastError }
    /// What the last login took; nil: there was none.
    var loginTime: Duration? { first.loginTime }

    private let login: SSHLogin
    private let limit: Int
    private let longRoundTrip: Duration
    private let loop: EventLoop
    private let logger: Logger
    private let first: SharedSession
    /// Opened because of a limit; no question is asked for them.
    private var others: [SharedSession] = []
    private var isGrowing = false
    /// On the loop's clock.
    private var growsAgainAt: UInt64 = 0
    private var isClosed = false

    /// On shorter paths a window of 2 MiB is no limit: that is 420 MB/s, more than a core enciphers.
    static let longRoundTrip = Duration.milliseconds(5)
    /// After a server has refused another session.
    private static let refusalPause = Duration.seconds(60)

    /// - Parameters:
    ///   - login: For every session; only the first one asks questions.
    ///   - limit: Sessions at once; at least 1.
    ///   - longRoundTrip: From where on windows are the limit.
    ///   - loop: Where all of them live.
    ///   - logger: Told of sessions beside the first.
    init(
        _ login: SSHLogin,
        limit: Int,
        longRoundTrip: Duration = SessionPool.longRoundTrip,
        on loop: EventLoop,
        logger: Logger
    ) {
        self.login = login
        self.limit = limit
        self.longRoundTrip = longRoundTrip
        self.loop = loop
        self.logger = logger
        first = SharedSession(login, on: loop)
        bulk = limit > 1 ? BulkSession(login, below: longRoundTrip, on: loop, logger: logger) : nil
        watch(first)
    }

    /// Sessions that are open.
    var sessions: [any SSHConnection] { ([first] + others).compactMap(\.open) }

    /// All that there are and are on their way; the first one always has its place.
    var count: Int { 1 + others.count + (bulk?.isInUse == true ? 1 : 0) }

    /// A session that another one for bulk may be opened beside; nil where there is none, or no room.
    var besideBulk: (any SSHConnection)? { count < limit ? sessions.first : nil }

    /// The open session with the fewest streams, of those that open them at once if there is one.
    var leastLoaded: (any SSHConnection)? {
        sessions.min { (Self.isHeldUp($0) ? 1 : 0, $0.streamCount) < (Self.isHeldUp($1) ? 1 : 0, $1.streamCount) }
    }

    /// A destination that does not answer holds up the streams that are opened after it, with libssh2.
    private static func isHeldUp(_ connection: any SSHConnection) -> Bool {
        (connection as? SSHSession)?.isHeldUp ?? false
    }

    /// A session: the open one with the fewest streams, or the first. `completion` is called once, on the loop, and
    /// maybe from inside this call.
    func connect(_ completion: @escaping Completion) {
        if let open = leastLoaded { return completion(.success(open)) }
        first.connect { [weak self] result in
            if case .success(let connection) = result { self?.observe(connection) }
            completion(result)
        }
    }

    /// Logs in for whoever may want a session soon, where nobody has to be asked anything. `completion` is called once
    /// with whether there is a session, on the loop, and maybe from inside this call.
    func warm(_ completion: @escaping (Bool) -> Void) {
        guard leastLoaded == nil else { return completion(true) }
        first.warm { [weak self] connection in
            if let connection { self?.observe(connection) }
            completion(connection != nil)
        }
    }

    /// Ends all sessions; the next ``connect(_:)`` opens another.
    func disconnect() {
        first.disconnect()
        bulk?.disconnect()
        for session in others { session.close() }
        others = []
    }

    /// The network has changed: those that libssh2 drives are asked at once whether their server is still there. The
    /// `ssh` program has its own way to find out.
    func networkChanged() {
        for session in sessions { (session as? SSHSession)?.askForLife() }
    }

    func close() {
        isClosed = true
        first.close()
        bulk?.close()
        for session in others { session.close() }
        others = []
    }

    // MARK: -

    private func observe(_ connection: any SSHConnection) {
        connection.onWindowLimit = { [weak self, weak connection] in
            guard let self, let connection, connection.streamCount > 1,
                let roundTrip = connection.shortestRoundTrip, roundTrip >= longRoundTrip
            else { return }
            grow()
        }
        (connection as? any TrafficReporting)?.onTraffic = { [weak self] stream, traffic in
            self?.onTraffic?(stream, traffic)
        }
        (connection as? SSHSession)?.onHeldUp = { [weak self] in self?.relieve() }
    }

    /// What waits behind a destination that does not answer goes to a session that is free, or to another one.
    private func relieve() {
        let open = sessions.compactMap { $0 as? SSHSession }
        guard let free = open.filter({ !$0.isHeldUp }).min(by: { $0.streamCount < $1.streamCount }) else {
            return grow()
        }
        for session in open where session.isHeldUp { session.moveWaitingStreams(to: free) }
    }

    private func watch(_ session: SharedSession) {
        session.onEnd = { [weak self, weak session] connection, error in
            guard let self, let session else { return }
            others.removeAll { $0 === session }
            onSessionEnd?(connection, error)
            if sessions.isEmpty { onEnd?(error) }
        }
    }

    private func grow() {
        guard !isClosed, !isGrowing, count < limit, loop.now >= growsAgainAt else { return }
        isGrowing = true
        let session = SharedSession(login.withoutQuestions, on: loop)
        watch(session)
        others.append(session)
        session.connect { [weak self, weak session] result in
            guard let self, let session else { return }
            isGrowing = false
            switch result {
            case .success(let connection):
                observe(connection)
                logger.debug("another SSH session", metadata: ["peer": "\(connection.peerDescription)"])
                relieve()
                onGrowth?()
            case .failure(let error):
                others.removeAll { $0 === session }
                growsAgainAt = loop.now &+ UInt64(Self.refusalPause.components.seconds) * 1_000_000_000
                logger.debug("no further SSH session", metadata: ["reason": "\(error)"])
            }
        }
    }
}
