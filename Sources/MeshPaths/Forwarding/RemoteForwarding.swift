import Logging
import SSHSignal
package import Streams

/// Keeps one port of the far side open for this side (`ssh -R`): asks for it over the peer's SSH connection, connects
/// what arrives there to this side's destination, and asks again when the connection was lost. Confined to its loop.
package final class RemoteForwarding: SessionUser {
    package enum Change: Sendable {
        /// The far side listens, on this port.
        case listening(UInt16)
        /// The far side's server says no to the first question: asking again would not help.
        case refused(StreamError)
        /// There is no SSH connection now, or the server still has the port for the one that was lost; it is tried
        /// again.
        case lost(StreamError)
    }

    typealias Connector = (@escaping (Result<any SSHConnection, StreamError>) -> Void) -> Void

    private let forward: RemoteForward
    private let loop: EventLoop
    private let logger: Logger
    private let connect: Connector
    private let onChange: (Change) -> Void
    private var retry: LoopTimer?
    private var failures = 0
    private var isStopped = false
    /// The server has said yes once: a later no is about a session of ours that it does not know to be gone.
    private var hasListened = false
    private var isListening = false
    private(set) var streamCount = 0
    /// What the far side chose, to ask for the same one again.
    private var port: UInt16
    /// Was asked to listen.
    private weak var session: (any SSHConnection)?

    private static let firstPause: Duration = .seconds(1)
    private static let longestPause: Duration = .seconds(30)
    /// Nothing tells when the server lets go of the port.
    private static let longestPauseWhileRefused: Duration = .seconds(5)

    init(
        _ forward: RemoteForward,
        on loop: EventLoop,
        logger: Logger,
        connect: @escaping Connector,
        onChange: @escaping (Change) -> Void
    ) {
        self.forward = forward
        self.loop = loop
        self.logger = logger
        self.connect = connect
        self.onChange = onChange
        port = forward.port
        retry = LoopTimer(on: loop) { [weak self] in self?.start() }
    }

    func start() {
        guard !isStopped else { return }
        connect { [weak self] result in
            switch result {
            case .success(let session): self?.listen(over: session)
            case .failure(let error): self?.lost(error)
            }
        }
    }

    func stop() {
        isStopped = true
        retry?.cancel()
    }

    /// Ends it, and has the server let go of the port.
    func cancel() {
        stop()
        if isListening { session?.stopListening(host: forward.bindHost, port: port) }
        isListening = false
    }

    /// An SSH connection is gone: with the port, where it was the one that had it.
    func sessionEnded(_ session: any SSHConnection, _ error: StreamError) {
        guard self.session === session else { return }
        self.session = nil
        isListening = false
        guard retry?.isScheduled == false else { return }
        lost(error)
    }

    private func listen(over session: any SSHConnection) {
        self.session = session
        let host = forward.bindHost
        session.listen(host: forward.bindHost, port: port) { [weak self] stream in
            guard let self else { return stream.reset(StreamError(.closed, "the forward was cancelled")) }
            accepted(stream)
        } completion: { [weak self] result in
            guard let self, !isStopped else {
                if case .success(let port) = result { session.stopListening(host: host, port: port) }
                return
            }
            switch result {
            case .success(let port):
                self.port = port
                failures = 0
                hasListened = true
                isListening = true
                onChange(.listening(port))
            case .failure(let error) where error.code == .denied && !hasListened:
                stop()
                onChange(.refused(error))
            case .failure(let error): lost(error)
            }
        }
    }

    private func lost(_ error: StreamError) {
        guard !isStopped else { return }
        let longest = error.code == .denied ? Self.longestPauseWhileRefused : Self.longestPause
        let pause = min(Self.firstPause * (1 << min(failures, 5)), longest)
        failures += 1
        retry?.schedule(after: pause)
        onChange(.lost(error))
    }

    private func accepted(_ stream: ByteStream) {
        guard !isStopped else { return stream.reset(StreamError(.closed, "the forward was cancelled")) }
        streamCount += 1
        let join = { [logger, forward] (result: Result<Socket, StreamError>) in
            switch result {
            case .success(let socket):
                Relay(stream, socket) { result in
                    self.streamCount -= 1
                    if let failure = result.failure {
                        logger.warning("stream to \(forward.destination) cut: \(failure)")
                    }
                }.start()
            case .failure(let error):
                self.streamCount -= 1
                logger.warning("no connection to \(forward.destination) for \(stream.peerDescription): \(error)")
                stream.reset(error)
            }
        }
        switch forward.destination {
        case .authority(let authority):
            Dialer.connect(to: .authority(authority), on: loop, options: .program, completion: join)
        case .unixSocket(let path):
            do throws(StreamError) {
                Dialer.connect(to: .address(try SocketAddress(unixPath: path)), on: loop, completion: join)
            } catch {
                join(.failure(error))
            }
        }
    }
}
