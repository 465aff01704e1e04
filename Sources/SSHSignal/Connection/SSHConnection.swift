public import Streams

/// An authenticated SSH connection on its event loop, whichever engine drives it: libssh2 or the user's own
/// `ssh` program.
///
/// Opening something is a call through this protocol; what was opened is a ``Streams/ByteStream``, and is not asked
/// which engine it came from. Confined to ``loop``; from async code use ``SSHClient``.
public protocol SSHConnection: AnyObject {
    /// Where it lives: everything else is called here.
    var loop: EventLoop { get }

    /// Why the connection ended; nil while it lives.
    var failure: SSHError? { get }
    /// Called once when the connection has ended, after its streams were told.
    var onEnd: ((SSHError) -> Void)? { get set }
    /// The server's key, once it is known.
    var hostKey: HostKey? { get }

    /// Who is at the other end, for messages: `user@address:port`.
    var peerDescription: String { get }
    /// The server's identification string, `SSH-2.0-OpenSSH_9.2p1 …`, or what is known of it.
    var serverVersion: String? { get }
    /// Whether streams can be opened and commands started.
    var isOpen: Bool { get }

    /// Streams and commands that are open or being opened.
    var streamCount: Int { get }
    /// The shortest time in which the server has answered; nil where nothing has been asked, or the engine does not
    /// measure it.
    var shortestRoundTrip: Duration? { get }
    /// Called when streams of this connection are slower than they could be because their windows together may not be
    /// larger: another connection would have windows of its own. Often; on the loop, not from inside a call.
    var onWindowLimit: (() -> Void)? { get set }

    /// Ends the connection: what runs on it fails with ``SSHError/Code/closed``, the server is told. Idempotent.
    func close()

    /// Has the server connect to `host:port` (RFC 4254 §7.2) and returns the connection as a byte stream.
    ///
    /// - Parameters:
    ///   - host: A name or address as the server knows it.
    ///   - port: 1–65535.
    ///   - completion: Called once, on the loop, never from inside this call. The failure's code is `.denied` where the
    ///     server's configuration forbids it, `.refused` where nothing listens, `.timedOut` without an answer.
    func openDirectTCPIP(host: String, port: UInt16, completion: @escaping (Result<ByteStream, StreamError>) -> Void)

    /// Has the server connect to a Unix socket of its machine (OpenSSH's PROTOCOL §2.4); dropbear cannot.
    ///
    /// - Parameters:
    ///   - path: Absolute.
    ///   - completion: As for ``openDirectTCPIP(host:port:completion:)``.
    func openDirectStreamLocal(path: String, completion: @escaping (Result<ByteStream, StreamError>) -> Void)

    /// Has the server listen on a port (RFC 4254 §7.1), until the connection ends.
    ///
    /// - Parameters:
    ///   - host: Where: `localhost`, an address, or empty for all; what other machines can reach is decided by the
    ///     server's GatewayPorts.
    ///   - port: 0 lets the server choose.
    ///   - accept: Called on the loop with each connection, which is the callee's to own.
    ///   - completion: Called once, on the loop, never from inside this call: the port. The failure's code is `.denied`
    ///     where the server does not listen.
    func listen(
        host: String,
        port: UInt16,
        accept: @escaping (ByteStream) -> Void,
        completion: @escaping (Result<UInt16, StreamError>) -> Void
    )

    /// Has the server listen there no longer. Nothing is told; does nothing where it does not listen for this side.
    ///
    /// - Parameters:
    ///   - host: As it was asked for.
    ///   - port: That ``listen(host:port:accept:completion:)`` has told.
    func stopListening(host: String, port: UInt16)

    /// Runs `command` with the account's login shell (RFC 4254 §6.5).
    ///
    /// - Parameters:
    ///   - command: A command line for the account's shell.
    ///   - completion: Called once, on the loop, never from inside this call, when the server has started it. The
    ///     process ends when it is released.
    func execute(_ command: String, completion: @escaping (Result<SSHProcess, SSHError>) -> Void)

    /// Starts a subsystem, such as `sftp`. Where the server does not have it, either this fails with
    /// ``SSHError/Code/requestDenied`` or the process ends at once.
    func startSubsystem(_ name: String, completion: @escaping (Result<SSHProcess, SSHError>) -> Void)
}
