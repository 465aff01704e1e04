import Logging
import Platform
import SSHSignal
import Streams

/// The way to a peer's HBONE server over its SSH connection: a forwarded channel, or, where the server forbids
/// forwarding, a command that the agent's program runs there (`bootstrap relay`). Confined to its loop.
///
/// Identity and policy are the same on both ways: mutual TLS goes through, to the same server.
final class AgentRelay {
    typealias Completion = (Result<ByteStream, StreamError>) -> Void

    /// Told once for each SSH connection that does not forward, with the reason.
    var onRelay: ((String) -> Void)?

    /// The HBONE server's, on the peer's loopback address.
    var port: UInt16
    private let agent: String?
    private let loop: EventLoop
    private let logger: Logger
    /// The connection whose server has refused to forward: it is not asked again.
    private weak var withoutForwarding: (any SSHConnection)?
    /// They end when they are released.
    private var processes: [SSHProcess] = []

    /// The server may still be ending another command of ours: with MaxSessions 1 there is room only then.
    private static let attempts = 10
    private static let pause: Duration = .milliseconds(200)

    /// - Parameters:
    ///   - port: The HBONE server's, on the peer's loopback address.
    ///   - agent: The program on the peer's machine that joins a command with that port; nil: there is none.
    init(port: UInt16, agent: String?, on loop: EventLoop, logger: Logger) {
        self.port = port
        self.agent = agent
        self.loop = loop
        self.logger = logger
    }

    private var command: String? { agent.map { "\(ShellScript.quote($0)) relay 127.0.0.1:\(port)" } }

    func open(over connection: any SSHConnection, completion: @escaping Completion) {
        if let command, connection === withoutForwarding {
            return run(command, on: connection, attempt: 1, completion)
        }
        connection.openDirectTCPIP(host: "127.0.0.1", port: port) { [self] result in
            guard let command = self.command, case .failure(let error) = result, error.code == .denied,
                connection.isOpen
            else {
                return completion(result)
            }
            withoutForwarding = connection
            onRelay?(error.message)
            run(command, on: connection, attempt: 1, completion)
        }
    }

    /// Whether the connection's server has refused to forward.
    func isNeeded(for connection: any SSHConnection) -> Bool { connection === withoutForwarding }

    private func run(
        _ command: String,
        on connection: any SSHConnection,
        attempt: Int,
        _ completion: @escaping Completion
    ) {
        connection.execute(command) { [self] result in
            switch result {
            case .success(let process):
                processes.append(process)
                process.onExit = { [weak self, weak process] result in
                    guard let self, let process else { return }
                    processes.removeAll { $0 === process }
                    guard case .success(let exit) = result, exit != .status(0) else { return }
                    logger.warning("the agent's relay ended (\(exit)): \(process.standardErrorText)")
                }
                completion(.success(process.stream))
            case .failure(let error) where error.code == .sessionLimit && attempt < Self.attempts && connection.isOpen:
                LoopTimer(on: loop) { [self] in
                    run(command, on: connection, attempt: attempt + 1, completion)
                }.schedule(after: Self.pause)
            case .failure(let error): completion(.failure(error.streamError))
            }
        }
    }
}
