import Glibc
public import Streams

/// An authenticated SSH connection for async code: a handle on an ``SSHConnection``, which lives on one event loop with all its
/// streams, whichever engine drives it. Closed when it is released.
public final class SSHClient: Sendable {
    public let loop: EventLoop
    /// The key that the server proved to have, and that was accepted.
    public let hostKey: HostKey
    /// The server's identification string, safe for a terminal.
    public let serverVersion: String
    /// The connection itself, for code that runs on ``loop``. Keep the client as long as it is used.
    package let connection: LoopBound<SSHConnection>
    /// Carries this connection; kept alive with it.
    private let jump: SSHClient?

    init(
        _ connection: LoopBound<SSHConnection>,
        hostKey: HostKey,
        serverVersion: String,
        on loop: EventLoop,
        jump: SSHClient? = nil
    ) {
        self.loop = loop
        self.jump = jump
        self.connection = connection
        self.hostKey = hostKey
        self.serverVersion = serverVersion
    }

    deinit {
        let connection = connection
        loop.submit { connection.withValue { $0.close() } }
    }

    // MARK: Connecting

    /// Connects over TCP: to each of the host's addresses in turn until one takes the connection.
    ///
    /// - Parameters:
    ///   - loop: Where the session and its streams will live; what is relayed to them must be there too.
    ///   - connectTimeout: For each address.
    ///   - hostKeyVerifier: Decides about the server's key before anything secret is sent.
    ///   - configuration: Time-outs and windows.
    ///   - host: A name or an address.
    ///   - port: 1–65535.
    public static func connect(
        host: String,
        port: UInt16 = 22,
        configuration: SSHSessionConfiguration,
        hostKeyVerifier: any HostKeyVerifier,
        on loop: EventLoop,
        connectTimeout: Duration = .seconds(10)
    ) async throws(SSHError) -> SSHClient {
        var failure = SSHError(.connectionFailed, "'\(host)' has no address")
        let addresses: [SocketAddress]
        do {
            addresses = try await Resolver.resolve(host: host, port: port)
        } catch {
            throw SSHError(.connectionFailed, "\(error)")
        }
        for address in addresses {
            let socket: LoopBound<ByteStream>
            do {
                socket = try await Socket.connect(to: address, on: loop, timeout: connectTimeout) { socket in
                    socket.detectDeadPeer(unacknowledgedFor: .seconds(30))
                    // A keystroke must not wait behind a full socket buffer of bulk.
                    socket.limitUnsent(to: 128 << 10)
                    return LoopBound<ByteStream>(socket, on: loop)
                }
            } catch {
                let isTimeout = (error as? StreamError)?.code == .timedOut
                failure = SSHError(isTimeout ? .timedOut : .connectionFailed, "\(error)")
                continue
            }
            return try await connect(
                over: socket,
                configuration: configuration,
                hostKeyVerifier: hostKeyVerifier,
                on: loop
            )
        }
        throw failure
    }

    /// Connects over a stream that is already there.
    ///
    /// - Parameter lower: Lives on `loop`; the session owns it from now on.
    /// - Parameter loop: Where it lives.
    /// - Parameter hostKeyVerifier: Decides about the server's key before anything secret is sent.
    /// - Parameter configuration: Time-outs and windows.
    public static func connect(
        over lower: LoopBound<ByteStream>,
        configuration: SSHSessionConfiguration,
        hostKeyVerifier: any HostKeyVerifier,
        on loop: EventLoop
    ) async throws(SSHError) -> SSHClient {
        try await establish(lower, configuration, hostKeyVerifier, loop, jump: nil)
    }

    /// Connects to a host that this connection's server can reach (`ssh -J`). The new connection keeps this one alive.
    public func connect(
        host: String,
        port: UInt16 = 22,
        configuration: SSHSessionConfiguration,
        hostKeyVerifier: any HostKeyVerifier
    ) async throws(SSHError) -> SSHClient {
        let lower: LoopBound<ByteStream>
        do {
            lower = try await openDirectTCPIP(host: host, port: port)
        } catch {
            throw SSHError(error.code == .timedOut ? .timedOut : .connectionFailed, error.message)
        }
        return try await Self.establish(lower, configuration, hostKeyVerifier, loop, jump: self)
    }

    private struct Established: Sendable {
        var connection: LoopBound<SSHConnection>
        var hostKey: HostKey
        var serverVersion: String
    }

    private static func establish(
        _ lower: LoopBound<ByteStream>,
        _ configuration: SSHSessionConfiguration,
        _ verifier: any HostKeyVerifier,
        _ loop: EventLoop,
        jump: SSHClient?
    ) async throws(SSHError) -> SSHClient {
        let result: Result<Established, SSHError> = await withCheckedContinuation { continuation in
            loop.submit {
                let made = lower.withValue { lower in
                    Result { () throws(SSHError) in
                        try SSHSession(over: lower, configuration: configuration, hostKeyVerifier: verifier)
                    }
                }
                let session: SSHSession
                switch made {
                case .success(let made): session = made
                case .failure(let error): return continuation.resume(returning: .failure(error))
                }
                // The completion keeps the session alive until it is established.
                session.establish { result in
                    continuation.resume(
                        returning: result.flatMap {
                            guard let hostKey = session.hostKey else {
                                return .failure(SSHError(.protocolViolation, "the server has no host key"))
                            }
                            return .success(
                                Established(
                                    connection: LoopBound(session, on: loop),
                                    hostKey: hostKey,
                                    serverVersion: session.serverVersion ?? ""
                                )
                            )
                        }
                    )
                }
            }
        }
        let established = try result.get()
        return SSHClient(
            established.connection,
            hostKey: established.hostKey,
            serverVersion: established.serverVersion,
            on: loop,
            jump: jump
        )
    }

    // MARK: Using

    /// Runs `body` on the connection's event loop.
    public func withConnection<Success: Sendable>(
        _ body: @escaping @Sendable (SSHConnection) throws -> Success
    ) async throws -> Success {
        let connection = connection
        return try await loop.execute { try connection.withValue(body) }
    }

    /// Runs `body` on the connection's event loop; its result is what `body` hands to the completion, once.
    func perform<Success: Sendable, Failure: Error>(
        _ body: @escaping @Sendable (SSHConnection, @escaping (Result<Success, Failure>) -> Void) -> Void
    ) async throws(Failure) -> Success {
        let connection = connection
        let result: Result<Success, Failure> = await withCheckedContinuation { continuation in
            loop.submit {
                connection.withValue { connection in
                    body(connection) { continuation.resume(returning: $0) }
                }
            }
        }
        return try result.get()
    }

    /// Runs `command` with the account's login shell, and waits for its end.
    ///
    /// - Parameters:
    ///   - input: Its standard input.
    ///   - outputLimit: More output in bytes is a failure (``SSHError/Code/limit``).
    ///   - timeout: For the whole run; nil waits for ever.
    ///   - command: A command line for the account's shell.
    /// - Returns: Also when the exit status is not 0.
    public func run(
        _ command: String,
        input: UploadSource = .bytes([]),
        outputLimit: Int = 1 << 20,
        timeout: Duration? = nil
    ) async throws(SSHError) -> SSHCommandResult {
        try await perform { (connection, completion: @escaping (Result<SSHCommandResult, SSHError>) -> Void) in
            do throws(SSHError) {
                CommandRun.start(
                    command,
                    on: connection,
                    input: try input.open(),
                    outputLimit: outputLimit,
                    timeout: timeout,
                    completion: completion
                )
            } catch {
                completion(.failure(error))
            }
        }
    }

    /// Starts `command` and returns once it runs; for a conversation over its standard input and output.
    public func execute(_ command: String) async throws(SSHError) -> LoopBound<SSHProcess> {
        try await perform {
            [loop] (connection, completion: @escaping (Result<LoopBound<SSHProcess>, SSHError>) -> Void) in
            connection.execute(command) { completion($0.map { LoopBound($0, on: loop) }) }
        }
    }

    /// Has the server connect to `host:port`. See ``SSHConnection/openDirectTCPIP(host:port:completion:)``.
    public func openDirectTCPIP(host: String, port: UInt16) async throws(StreamError) -> LoopBound<ByteStream> {
        try await perform {
            [loop] (connection, completion: @escaping (Result<LoopBound<ByteStream>, StreamError>) -> Void) in
            connection.openDirectTCPIP(host: host, port: port) { completion($0.map { LoopBound($0, on: loop) }) }
        }
    }

    /// Why the connection has ended; nil while it stands.
    func failure() async -> SSHError? {
        let connection = connection
        return await withCheckedContinuation { continuation in
            loop.submit { continuation.resume(returning: connection.withValue(\.failure)) }
        }
    }

    /// Returns why the connection ended, once it has.
    public func ended() async -> SSHError {
        let connection = connection
        return await withCheckedContinuation { continuation in
            loop.submit {
                connection.withValue { connection in
                    if let failure = connection.failure { return continuation.resume(returning: failure) }
                    let previous = connection.onEnd
                    connection.onEnd = { error in
                        previous?(error)
                        continuation.resume(returning: error)
                    }
                }
            }
        }
    }

    /// Ends the connection and everything on it.
    public func close() async {
        let connection = connection
        await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
            loop.submit {
                connection.withValue { $0.close() }
                continuation.resume()
            }
        }
    }
}
