import Glibc
import MeshIdentity
import Streams

/// An SSH connection that the user's own `ssh` program drives: one master process (`ssh -M -N`), asked over its control
/// socket for a channel at a time. It is the engine for what libssh2 cannot do. Confined to its event loop.
///
/// Each channel has a connection to the control socket to itself, in the master's proxy mode: a slow one stops no
/// other, and no further process runs for it. The master's death is noticed by the end of its standard output and of
/// its connections.
final class OpenSSHSession: SSHConnection, TrafficReporting {
    let loop: EventLoop
    private(set) var failure: SSHError?
    var onEnd: ((SSHError) -> Void)?
    /// Never called: each channel has a window of its own.
    var onWindowLimit: (() -> Void)?
    var onTraffic: ((ByteStream, StreamTraffic) -> Void)?
    let hostKey: HostKey?

    private let master: OpenSSHProcess
    private let directory: ControlDirectory
    /// For questions about the master itself.
    private let control: MuxConnection
    private let peer: String
    private let version: String
    private let log: OpenSSHLog

    /// Until the server has confirmed their end: the owner may be done with them before.
    private var channels: [ObjectIdentifier: MuxChannel] = [:]
    /// Those that carry no channel, for the next one.
    private var freeConnections: [MuxConnection] = []
    private var openings: [ObjectIdentifier: Opening] = [:]
    private var nextRequest: UInt32 = 1
    var listening = Listening()
    /// The master has gone; why is being read.
    private var isLosing = false
    private var aliveCheck: (request: UInt32, completion: (Bool) -> Void)?

    /// For opening a channel.
    static let requestTimeout = Duration.seconds(10)
    /// For what closed streams have accepted to reach the server when the connection is closed.
    private static let closeTimeout = Duration.seconds(5)
    /// More connections that carry nothing are closed: the master asks the kernel about each of them at every turn.
    private static let maximumFree = 16
    /// The receive window of a forwarded stream.
    private static let streamWindow = 2 << 20
    /// A longer command is more than Linux gives a shell as one argument.
    private static let maximumCommand = 128 << 10

    /// A channel that was asked for.
    private final class Opening {
        var channel: MuxChannel?
        var timer: LoopTimer?
        var completion: ((Result<MuxChannel, SSHError>) -> Void)?
    }

    /// - Parameters:
    ///   - master: Has logged in.
    ///   - directory: With its control socket; removed when the connection has ended.
    ///   - control: A connection to that socket.
    ///   - log: What the master writes to its standard error.
    ///   - hostKey: That ssh has verified.
    ///   - peer: For messages.
    ///   - version: Of the ssh program.
    init(
        _ master: OpenSSHProcess,
        directory: ControlDirectory,
        control: MuxConnection,
        log: OpenSSHLog,
        hostKey: HostKey,
        peer: String,
        version: String,
        on loop: EventLoop
    ) {
        self.master = master
        self.directory = directory
        self.control = control
        self.log = log
        self.peer = peer
        self.version = version
        self.loop = loop
        self.hostKey = hostKey
        master.onExit = { [weak self] _ in self?.lost() }
        control.onEnd = { [weak self] in self?.lost() }
        control.onAnswer = { [weak self] answer in
            guard let self, !takeForwardAnswer(answer), case .alive(let request) = answer, let check = aliveCheck,
                check.request == request
            else { return }
            aliveCheck = nil
            check.completion(true)
        }
    }

    // MARK: SSHConnection

    var peerDescription: String { peer }

    /// The process that logged in.
    var masterProcess: pid_t { master.pid }

    /// Where its files are.
    var controlDirectory: String { directory.path }

    var serverVersion: String? { version }

    var streamCount: Int { channels.count }

    /// Not measured.
    var shortestRoundTrip: Duration? { nil }

    var isOpen: Bool { failure == nil && !isLosing }

    func close() {
        guard failure == nil else { return }
        end(SSHError(.closed, "the SSH session with \(peer) was closed"))
    }

    func openDirectTCPIP(
        host: String,
        port: UInt16,
        completion: @escaping (Result<ByteStream, StreamError>) -> Void
    ) {
        openStream(.directTCPIP(host: host, port: port), completion)
    }

    func openDirectStreamLocal(path: String, completion: @escaping (Result<ByteStream, StreamError>) -> Void) {
        openStream(.directStreamLocal(path: path), completion)
    }

    private func openStream(_ kind: ChannelKind, _ completion: @escaping (Result<ByteStream, StreamError>) -> Void) {
        open(kind, window: Self.streamWindow) { completion($0.map { $0 }.mapError(\.streamError)) }
    }

    func listen(
        host: String,
        port: UInt16,
        accept: @escaping (ByteStream) -> Void,
        completion: @escaping (Result<UInt16, StreamError>) -> Void
    ) {
        startListening(RemotePort(host: host, port: port), accept: accept, completion: completion)
    }

    func stopListening(host: String, port: UInt16) { endListening(RemotePort(host: host, port: port)) }

    func execute(_ command: String, completion: @escaping (Result<SSHProcess, SSHError>) -> Void) {
        guard command.utf8.count <= Self.maximumCommand else {
            let error = SSHError(.limit, "a command of \(command.utf8.count) bytes is too long for a shell")
            return later(completion, .failure(error))
        }
        start(.command(command), completion)
    }

    func startSubsystem(_ name: String, completion: @escaping (Result<SSHProcess, SSHError>) -> Void) {
        start(.subsystem(name), completion)
    }

    private func start(_ request: ProcessRequest, _ completion: @escaping (Result<SSHProcess, SSHError>) -> Void) {
        open(.session, window: request.window, request: request) { completion($0.map { SSHProcess($0) }) }
    }

    // MARK: Opening

    /// - Parameters:
    ///   - request: What is asked for once the channel is open; the channel is handed on when it was granted.
    ///   - completion: Called once, on the loop, never from inside this call.
    private func open(
        _ kind: ChannelKind,
        window: Int,
        request: ProcessRequest? = nil,
        completion: @escaping (Result<MuxChannel, SSHError>) -> Void
    ) {
        loop.preconditionInLoop()
        guard failure == nil else { return later(completion, .failure(failure ?? Self.notOpen)) }
        let opening = Opening()
        openings[ObjectIdentifier(opening)] = opening
        opening.completion = completion
        let timer = LoopTimer(on: loop) { [weak self, weak opening] in
            guard let self, let opening else { return }
            end(opening, .failure(kind.timedOut(after: Self.requestTimeout, peer: peer)))
        }
        opening.timer = timer
        timer.schedule(after: Self.requestTimeout)
        proxy { [weak self, weak opening] result in
            guard let self, let opening, opening.completion != nil else { return }
            switch result {
            case .failure(let error):
                end(opening, .failure(SSHError(.system, "\(kind.what) through \(peer): \(error)")))
            case .success(let connection):
                let channel = makeChannel(on: connection, window, kind.peerDescription(through: peer))
                opening.channel = channel
                channel.onOpen = { [weak self, weak opening, unowned channel] reason in
                    guard let self, let opening else { return }
                    if let reason {
                        end(opening, .failure(kind.refusal(reason, peer: peer)))
                    } else if let request {
                        channel.onReply = { [weak self, weak opening] isGranted in
                            guard let self, let opening else { return }
                            end(opening, isGranted ? .success(channel) : .failure(request.denial(by: peer)))
                        }
                        channel.ask(request)
                    } else {
                        end(opening, .success(channel))
                    }
                }
                channel.open(kind)
            }
        }
    }

    /// A connection in proxy mode that carries no channel.
    private func proxy(_ completion: @escaping (Result<MuxConnection, StreamError>) -> Void) {
        if let free = freeConnections.popLast() {
            return loop.later { [weak self] in self?.failure == nil ? completion(.success(free)) : free.close() }
        }
        MuxConnection.open(directory.socket, on: loop) { [weak self] result in
            guard let self, failure == nil else {
                if case .success(let connection) = result { connection.close() }
                return
            }
            if case .success(let connection) = result { connection.becomeProxy(request: takeRequest()) }
            completion(result)
        }
    }

    private func makeChannel(on connection: MuxConnection, _ window: Int, _ description: String) -> MuxChannel {
        let channel = MuxChannel(on: connection, loop: loop, window: window, peerDescription: description)
        let key = ObjectIdentifier(channel)
        channels[key] = channel
        connection.onAnswer = { [weak self] answer in
            // It refuses the proxy mode: an `ssh` before 7.4, or one that asks its user (ControlMaster ask) and may
            // not.
            if case .refused(_, let reason) = answer { self?.lost("its control socket refuses: \(reason)") }
        }
        channel.onFree = { [weak self] in
            guard let self else { return }
            channels[key] = nil
            guard failure == nil else { return stopIfDone() }
            if freeConnections.count < Self.maximumFree || connection.hasRefusal {
                freeConnections.append(connection)
            } else {
                connection.close()
            }
        }
        channel.onTraffic = { [weak self] stream, kind in self?.onTraffic?(stream, kind) }
        channel.lost = { [weak self] in self?.connectionEnded(under: key) }
        return channel
    }

    private func end(_ opening: Opening, _ result: Result<MuxChannel, SSHError>) {
        guard let completion = opening.completion else { return }
        opening.completion = nil
        opening.timer?.cancel()
        openings[ObjectIdentifier(opening)] = nil
        // It stays in `channels` until the server has answered and its end is confirmed.
        if case .failure(let error) = result { opening.channel?.reset(error.streamError) }
        opening.channel = nil
        completion(result)
    }

    /// A message for the master itself.
    func send(_ message: [UInt8]) { control.send(message) }

    /// Where the master connects for the `number`th port that the server listens on.
    func forwardPath(_ number: Int) -> String { "\(directory.path)/r\(number)" }

    func takeRequest() -> UInt32 {
        defer { nextRequest &+= 1 }
        return nextRequest
    }

    func later<Success>(
        _ completion: @escaping (Result<Success, SSHError>) -> Void,
        _ result: Result<Success, SSHError>
    ) {
        loop.later { completion(result) }
    }

    static var notOpen: SSHError { SSHError(.closed, "the SSH session is not open") }

    // MARK: Ending

    /// One connection ended. Mostly the master did; if it is alive, this channel alone is lost.
    private func connectionEnded(under key: ObjectIdentifier) {
        guard failure == nil, let channel = channels[key] else { return }
        guard aliveCheck == nil else { return lost() }
        let request = takeRequest()
        let error = SSHError(.connectionLost, "the ssh program has given up a channel of \(peer)")
        aliveCheck = (
            request,
            { [weak self] isAlive in
                guard let self, isAlive else { return }
                channels[key] = nil
                for opening in openings.values where opening.channel === channel { end(opening, .failure(error)) }
                channel.sessionEnded(error.streamError)
            }
        )
        control.send(MuxMessage.aliveCheck(id: request))
    }

    private func lost(_ reason: String? = nil) {
        guard failure == nil, !isLosing else { return }
        isLosing = true
        // What ssh has said is there in the next turn at the latest.
        loop.later { [self] in
            let said = (reason ?? log.lastWords).map { ": \($0)" } ?? ""
            end(SSHError(.connectionLost, "the SSH connection with \(peer) was lost\(said)"))
        }
    }

    private func end(_ error: SSHError) {
        guard failure == nil else { return }
        failure = error
        let isOurs = error.code == .closed
        for opening in openings.values { end(opening, .failure(error)) }
        for (key, channel) in channels {
            // What their owners have closed is still on its way, when the end is ours.
            if isOurs && (channel.isClosing || !channel.isOpen) { continue }
            channels[key] = nil
            channel.sessionEnded(error.streamError)
        }
        aliveCheck?.completion(false)
        aliveCheck = nil
        endListening(error)
        control.close()
        stop()
        let onEnd = onEnd
        self.onEnd = nil
        onEnd?(error)
    }

    /// Ends the master once what was accepted is sent, and tidies up behind it. Keeps this object until then.
    private func stop() {
        // What it has is connected; and the process may end before the master does.
        directory.remove()
        guard !master.isOver else { return tidyUp() }
        let timer = LoopTimer(on: loop) { self.master.terminate() }
        master.onExit = { _ in
            timer.cancel()
            self.tidyUp()
        }
        timer.schedule(after: Self.closeTimeout)
        stopIfDone()
    }

    private func stopIfDone() {
        if !channels.values.contains(where: \.isClosing) { master.terminate() }
    }

    private func tidyUp() {
        directory.remove()
        for connection in freeConnections { connection.close() }
        freeConnections = []
        let channels = channels.values
        self.channels = [:]
        for channel in channels {
            channel.sessionEnded(StreamError(.closed, "the SSH session with \(peer) was closed"))
        }
    }
}
