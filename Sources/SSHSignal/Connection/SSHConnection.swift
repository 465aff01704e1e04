public import Streams

/// An authenticated SSH connection on its event loop, whichever engine drives it: libssh2 (``SSHSession``) or the user's own
/// `ssh` program. What both can do is here.
///
/// A class rather than a protocol, as ``Streams/ByteStream`` is: opening something is one call through its table, and what was opened
/// is not asked which engine it came from. Confined to ``loop``; from async code use ``SSHClient``.
public class SSHConnection {
    public final let loop: EventLoop

    /// Why the connection ended; nil while it lives.
    public final internal(set) var failure: SSHError?
    /// Called once when the connection has ended, after its streams were told.
    public final var onEnd: ((SSHError) -> Void)?
    /// The server's key, once it is known.
    public final internal(set) var hostKey: HostKey?

    init(loop: EventLoop) {
        self.loop = loop
    }

    /// Called when streams of this connection are slower than they could be because their windows together may not be larger:
    /// another connection would have windows of its own. Often; on the loop, not from inside a call.
    package final var onWindowLimit: (() -> Void)?
    /// Streams and commands that are open or being opened.
    package var streamCount: Int { 0 }
    /// The shortest time in which the server has answered; nil where nothing has been asked, or the engine does not measure it.
    package var shortestRoundTrip: Duration? { nil }

    /// Who is at the other end, for messages: `user@address:port`.
    public var peerDescription: String { fatalError("\(type(of: self)) does not override peerDescription") }

    /// The server's identification string, `SSH-2.0-OpenSSH_9.2p1 …`, or what is known of it.
    public var serverVersion: String? { nil }

    /// Whether streams can be opened and commands started.
    public var isOpen: Bool { fatalError("\(type(of: self)) does not override isOpen") }

    /// Ends the connection: what runs on it fails with ``SSHError/Code/closed``, the server is told. Idempotent.
    public func close() { fatalError("\(type(of: self)) does not override close()") }

    /// Has the server connect to `host:port` (RFC 4254 §7.2) and returns the connection as a byte stream.
    ///
    /// - Parameters:
    ///   - host: A name or address as the server knows it.
    ///   - completion: Called once, on the loop, never from inside this call. The failure's code is `.denied` where the
    ///     server's configuration forbids it, `.refused` where nothing listens, `.timedOut` without an answer.
    ///   - port: 1–65535.
    public func openDirectTCPIP(
        host: String,
        port: UInt16,
        completion: @escaping (Result<ByteStream, StreamError>) -> Void
    ) {
        fatalError("\(type(of: self)) does not override openDirectTCPIP(host:port:completion:)")
    }

    /// Has the server connect to a Unix socket of its machine (OpenSSH's PROTOCOL §2.4); dropbear cannot.
    ///
    /// - Parameters:
    ///   - path: Absolute.
    ///   - completion: As for ``openDirectTCPIP(host:port:completion:)``.
    public func openDirectStreamLocal(path: String, completion: @escaping (Result<ByteStream, StreamError>) -> Void) {
        loop.later {
            completion(.failure(StreamError(.denied, "this SSH engine does not reach the Unix sockets of a server")))
        }
    }

    /// Has the server listen on a port (RFC 4254 §7.1), until the connection ends.
    ///
    /// - Parameters:
    ///   - host: Where: `localhost`, an address, or empty for all; what other machines can reach is decided by the server's
    ///     GatewayPorts.
    ///   - port: 0 lets the server choose.
    ///   - accept: Called on the loop with each connection, which is the callee's to own.
    ///   - completion: Called once, on the loop, never from inside this call: the port. The failure's code is `.denied` where
    ///     the server does not listen.
    public func listen(
        host: String,
        port: UInt16,
        accept: @escaping (ByteStream) -> Void,
        completion: @escaping (Result<UInt16, StreamError>) -> Void
    ) {
        loop.later { completion(.failure(StreamError(.denied, "this SSH engine does not have a server listen"))) }
    }

    /// Runs `command` with the account's login shell (RFC 4254 §6.5).
    ///
    /// - Parameter completion: Called once, on the loop, never from inside this call, when the server has started it. The
    ///   process ends when it is released.
    /// - Parameter command: A command line for the account's shell.
    public func execute(_ command: String, completion: @escaping (Result<SSHProcess, SSHError>) -> Void) {
        fatalError("\(type(of: self)) does not override execute(_:completion:)")
    }

    /// Starts a subsystem, such as `sftp`. Where the server does not have it, either this fails with
    /// ``SSHError/Code/requestDenied`` or the process ends at once.
    public func startSubsystem(_ name: String, completion: @escaping (Result<SSHProcess, SSHError>) -> Void) {
        fatalError("\(type(of: self)) does not override startSubsystem(_:completion:)")
    }
}
