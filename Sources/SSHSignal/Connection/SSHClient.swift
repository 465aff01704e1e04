public import Streams

/// An authenticated SSH connection for async code: a handle on an ``SSHConnection``, which lives on one event loop with
/// all its streams, whichever engine drives it. ``SSHLogin`` makes one as `ssh` would. Closed when it is released.
public final class SSHClient: Sendable {
    /// Where the connection and all its streams live.
    public let loop: EventLoop
    /// The key that the server proved to have, and that was accepted.
    public let hostKey: HostKey
    /// The server's identification string, safe for a terminal.
    public let serverVersion: String
    /// The connection itself, for code that runs on ``loop``. Keep the client as long as it is used.
    package let connection: LoopBound<any SSHConnection>
    /// Carries this connection; kept alive with it.
    private let jump: SSHClient?

    init(
        _ connection: LoopBound<any SSHConnection>,
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

    /// Runs `body` on the connection's event loop.
    public func withConnection<Success: Sendable>(
        _ body: @escaping @Sendable (any SSHConnection) throws -> Success
    ) async throws -> Success {
        let connection = connection
        return try await loop.execute { try connection.withValue(body) }
    }

    /// Runs `body` on the connection's event loop; its result is what `body` hands to the completion, once.
    func perform<Success: Sendable, Failure: Error>(
        _ body: @escaping @Sendable (any SSHConnection, @escaping (Result<Success, Failure>) -> Void) -> Void
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
    ///   - command: A command line for the account's shell.
    ///   - input: Its standard input.
    ///   - outputLimit: More output in bytes is a failure (``SSHError/Code/limit``).
    ///   - timeout: For the whole run; nil waits for ever.
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
    package func failure() async -> SSHError? {
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
