import Platform
public import Streams

/// Connecting with libssh2, for a program that has its own configuration and its own idea of the right host key.
extension SSHClient {
    /// Connects over TCP, to whichever of the host's addresses answers first (RFC 8305).
    ///
    /// - Parameters:
    ///   - host: A name or an address.
    ///   - port: 1–65535.
    ///   - configuration: Time-outs and windows.
    ///   - hostKeyVerifier: Decides about the server's key before anything secret is sent.
    ///   - loop: Where the session and its streams will live; what is relayed to them must be there too.
    ///   - connectTimeout: For each address.
    public static func connect(
        host: String,
        port: UInt16 = 22,
        configuration: SSHSessionConfiguration,
        hostKeyVerifier: any HostKeyVerifier,
        on loop: EventLoop,
        connectTimeout: Duration = .seconds(10)
    ) async throws(SSHError) -> SSHClient {
        var options = Dialer.Options(
            timeout: connectTimeout,
            socket: .multiplexed(unacknowledgedLimit: deadPeerLimit)
        )
        options.repeatDelay = Dialer.Options.pathRepeatDelay
        return try await connect(
            over: dial(.host(host, port: port), options, on: loop),
            configuration: configuration,
            hostKeyVerifier: hostKeyVerifier,
            on: loop
        )
    }

    /// How long a server may leave bytes unacknowledged: longer than a mobile network is out of reach now and then.
    static var deadPeerLimit: Duration { .seconds(30) }

    /// Connects a socket for ``connect(over:configuration:hostKeyVerifier:on:)``.
    static func dial(
        _ destination: Dialer.Destination,
        _ options: Dialer.Options,
        on loop: EventLoop,
        check: @escaping @Sendable (IPAddress) -> StreamError? = { _ in nil }
    ) async throws(SSHError) -> LoopBound<ByteStream> {
        do {
            return try await Dialer.connect(to: destination, on: loop, options: options, check: check) {
                LoopBound<ByteStream>($0, on: loop)
            }
        } catch {
            let isTimeout = (error as? StreamError)?.code == .timedOut
            throw SSHError(isTimeout ? .timedOut : .connectionFailed, "\(error)")
        }
    }

    /// Connects over a stream that is already there.
    ///
    /// - Parameter lower: Lives on `loop`; the session owns it from now on.
    /// - Parameter configuration: Time-outs and windows.
    /// - Parameter hostKeyVerifier: Decides about the server's key before anything secret is sent.
    /// - Parameter loop: Where it lives.
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
        configuration.onStep?(.connected(host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"))
        return try await Self.establish(lower, configuration, hostKeyVerifier, loop, jump: self)
    }

    private struct Established: Sendable {
        var connection: LoopBound<any SSHConnection>
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
                                    connection: LoopBound(session as any SSHConnection, on: loop),
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
}
