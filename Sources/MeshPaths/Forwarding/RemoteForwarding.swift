import Logging
import SSHSignal
package import Streams

/// Keeps one port of the far side open for this side (`ssh -R`): has the peer's node listen where it may, and else its
/// SSH server; connects what arrives there to this side's destination, and asks again when the connection was lost.
/// Confined to its loop.
///
/// ```
///   asking the node ── yes ──────────────────────→ listening ── lost ──→ a pause, and from the beginning
///    └─ no, or no path ─→ asking the SSH server ── yes ───↑
///                          └─ no ─→ refused, where neither has ever said yes
/// ```
package final class RemoteForwarding: SessionUser {
    /// Who listens.
    package enum Listener: Hashable, Sendable {
        /// The peer's node, where its policy and its configuration allow it.
        case node
        case server
    }

    package enum Change: Sendable {
        /// The far side listens, on this port.
        case listening(UInt16, by: Listener)
        /// The far side says no to the first question: asking again would not help.
        case refused(StreamError)
        /// There is no connection now, or the far side still has the port for the one that was lost; it is tried again.
        case lost(StreamError)
    }

    typealias Connector = (@escaping (Result<any SSHConnection, StreamError>) -> Void) -> Void
    /// Has the peer's node listen.
    typealias NodeAsker = (
        _ host: String, _ port: UInt16, @escaping (Result<(stream: ByteStream, place: String), StreamError>) -> Void
    ) -> Void

    private let forward: RemoteForward
    private let loop: EventLoop
    private let logger: Logger
    private let settings: ConnectionSettings
    /// nil: there is no node to ask.
    private let askNode: NodeAsker?
    private let connect: Connector
    private let onChange: (Change) -> Void
    private var retry: LoopTimer?
    private var failures = 0
    private var isStopped = false
    /// The far side has said yes once: a later no is about a connection of ours that it does not know to be gone.
    private var hasListened = false
    private var isListening = false
    /// When it began last, on the loop's clock.
    private var listeningSince: UInt64 = 0
    private var serverStreams = 0
    /// What the far side chose, to ask for the same one again.
    private var port: UInt16
    /// The SSH server's, that was asked to listen.
    private weak var session: (any SSHConnection)?
    private var node: NodeListening?

    private static let firstPause: Duration = .seconds(1)
    private static let longestPause: Duration = .seconds(30)
    /// Who listens no longer than this is asked again after a pause, whatever is said at the end.
    private static let trust: Duration = .seconds(1)
    /// Nothing tells when the far side lets go of the port.
    private static let longestPauseWhileRefused: Duration = .seconds(5)

    init(
        _ forward: RemoteForward,
        on loop: EventLoop,
        settings: ConnectionSettings,
        logger: Logger,
        askNode: NodeAsker?,
        connect: @escaping Connector,
        onChange: @escaping (Change) -> Void
    ) {
        self.forward = forward
        self.loop = loop
        self.settings = settings
        self.logger = logger
        self.askNode = askNode
        self.connect = connect
        self.onChange = onChange
        port = forward.port
        retry = LoopTimer(on: loop) { [weak self] in self?.start() }
    }

    var streamCount: Int { serverStreams + (node?.streamCount ?? 0) }

    func start() {
        guard !isStopped else { return }
        guard let askNode else { return askServer(after: nil) }
        askNode(forward.bindHost, port) { [weak self] result in
            switch result {
            case .success((let stream, let place)):
                guard let self, !isStopped else { return stream.reset(.cancelled) }
                listen(over: stream, at: place)
            case .failure(let error): self?.askServer(after: error)
            }
        }
    }

    func stop() {
        guard !isStopped else { return }
        isStopped = true
        retry?.cancel()
        node?.cut(StreamError(.closed, "the forward was stopped"))
        node = nil
    }

    /// Ends it, and has the far side let go of the port; what was accepted goes on.
    func cancel() {
        if isListening { session?.stopListening(host: forward.bindHost, port: port) }
        isListening = false
        node?.leave()
        node = nil
        stop()
    }

    // MARK: The node

    private func listen(over stream: ByteStream, at place: String) {
        do throws(StreamError) {
            node = try NodeListening(
                over: stream,
                at: place,
                settings: settings,
                logger: logger,
                dial: { [weak self] completion in
                    guard let self else { return completion(.failure(.cancelled)) }
                    dial(completion)
                },
                onEnd: { [weak self] listening, error in
                    guard let self, node === listening else { return }
                    node = nil
                    lost(error ?? StreamError(.closed, "the node listens no more"))
                }
            )
        } catch {
            stream.reset(error)
            return lost(error)
        }
        began(on: port, by: .node)
    }

    // MARK: The SSH server

    /// - Parameter error: Why the node does not listen; nil: there is none.
    private func askServer(after error: StreamError?) {
        guard !isStopped else { return }
        connect { [weak self] result in
            guard let self, !isStopped else { return }
            switch result {
            case .success(let session): listen(over: session, after: error)
            case .failure(let other):
                // Who is there has decided: that nothing leads to the SSH server makes no difference.
                guard let error, error.isOfNode, !hasListened else { return lost(Self.joined(error, other)) }
                refused(Self.joined(error, other))
            }
        }
    }

    /// An SSH connection is gone: with the port, where it was the one that had it.
    func sessionEnded(_ session: any SSHConnection, _ error: StreamError) {
        guard self.session === session else { return }
        self.session = nil
        isListening = false
        guard retry?.isScheduled == false else { return }
        lost(error)
    }

    private func listen(over session: any SSHConnection, after nodeError: StreamError?) {
        self.session = session
        let host = forward.bindHost
        session.listen(host: forward.bindHost, port: port) { [weak self] stream in
            guard let self else { return stream.reset(.cancelled) }
            accepted(stream)
        } completion: { [weak self] result in
            guard let self, !isStopped else {
                if case .success(let port) = result { session.stopListening(host: host, port: port) }
                return
            }
            switch result {
            case .success(let port):
                isListening = true
                began(on: port, by: .server)
            case .failure(let error) where error.code == .denied && !hasListened:
                refused(Self.joined(nodeError?.isOfNode == true ? nodeError : nil, error))
            case .failure(let error):
                self.session = nil
                lost(error)
            }
        }
    }

    private func accepted(_ stream: ByteStream) {
        guard !isStopped else { return stream.reset(.cancelled) }
        serverStreams += 1
        dial { [self] result in
            switch result {
            case .success(let socket):
                Relay(stream, socket) { [self] result in
                    serverStreams -= 1
                    if let failure = result.failure {
                        logger.warning("stream to \(forward.destination) cut: \(failure)")
                    }
                }.start()
            case .failure(let error):
                serverStreams -= 1
                logger.warning("no connection to \(forward.destination) for \(stream.peerDescription): \(error)")
                stream.reset(error)
            }
        }
    }

    // MARK: -

    private static func joined(_ node: StreamError?, _ server: StreamError) -> StreamError {
        guard let node else { return server }
        return StreamError(server.code, "\(node.message); and over SSH: \(server.message)")
    }

    private func began(on port: UInt16, by listener: Listener) {
        self.port = port
        failures = 0
        hasListened = true
        listeningSince = loop.now
        onChange(.listening(port, by: listener))
    }

    private func refused(_ error: StreamError) {
        stop()
        onChange(.refused(error))
    }

    private func lost(_ error: StreamError) {
        guard !isStopped else { return }
        let longest = error.code == .denied ? Self.longestPauseWhileRefused : Self.longestPause
        // Who says that it stops may have a successor, which is there already.
        let isHandedOn = error.code == .draining && loop.now &- listeningSince >= Self.trust.nanoseconds
        let pause = isHandedOn ? .zero : min(Self.firstPause * (1 << min(failures, 5)), longest)
        failures += 1
        retry?.schedule(after: pause)
        onChange(.lost(error))
    }

    /// Connects to this side's destination.
    private func dial(_ completion: @escaping (Result<Socket, StreamError>) -> Void) {
        switch forward.destination {
        case .authority(let authority):
            Dialer.connect(to: .authority(authority), on: loop, options: .program, completion: completion)
        case .unixSocket(let path):
            do throws(StreamError) {
                Dialer.connect(to: .address(try SocketAddress(unixPath: path)), on: loop, completion: completion)
            } catch {
                completion(.failure(error))
            }
        }
    }
}

extension StreamError {
    fileprivate static var cancelled: StreamError { StreamError(.closed, "the forward was cancelled") }
}
