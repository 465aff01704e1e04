public import Streams

/// Why something over SSH did not work, with a message that says what to do.
public struct SSHError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What kind of failure this is; new kinds may be added.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        package enum Kind: String {
            case hostKeyRefused, authenticationRefused, connectionFailed, timedOut, busy, negotiationFailed
            case connectionLost, closed, sessionLimit, prohibited, refused, requestDenied, commandFailed, transferFailed
            case limit, protocolViolation, system, unsupported
        }
        package let kind: Kind
        public var description: String { kind.rawValue }

        /// The verifier did not accept the host key. Nothing but the key exchange had been sent.
        public static let hostKeyRefused = Code(kind: .hostKeyRefused)
        /// No key was accepted, or the right one could not be used (a wrong passphrase, an agent that refuses).
        public static let authenticationRefused = Code(kind: .authenticationRefused)
        /// No TCP connection (refused, unreachable, the name does not resolve), or no SSH server at its other end.
        public static let connectionFailed = Code(kind: .connectionFailed)
        /// No answer in time.
        public static let timedOut = Code(kind: .timedOut)
        /// The server closed before its version: MaxStartups or a penalty for this address. Retry later, with jitter.
        public static let busy = Code(kind: .busy)
        /// No common algorithm, or the key exchange failed.
        public static let negotiationFailed = Code(kind: .negotiationFailed)
        /// The connection ended while it was in use.
        public static let connectionLost = Code(kind: .connectionLost)
        /// This side closed the session.
        public static let closed = Code(kind: .closed)
        /// The server opens no more sessions on this connection (MaxSessions). Another connection can carry them.
        public static let sessionLimit = Code(kind: .sessionLimit)
        /// The server's configuration forbids it (AllowTcpForwarding, PermitOpen).
        public static let prohibited = Code(kind: .prohibited)
        /// The server could not connect to the forward's destination.
        public static let refused = Code(kind: .refused)
        /// The server does not run the command or subsystem.
        public static let requestDenied = Code(kind: .requestDenied)
        /// A command ended with another status than 0.
        public static let commandFailed = Code(kind: .commandFailed)
        /// A file did not arrive whole.
        public static let transferFailed = Code(kind: .transferFailed)
        /// More output, or a larger message, than was allowed.
        public static let limit = Code(kind: .limit)
        /// The server broke the protocol.
        public static let protocolViolation = Code(kind: .protocolViolation)
        /// An error of the local operating system or library.
        public static let system = Code(kind: .system)
        /// The login needs what libssh2 cannot do; ``SSHError/limits`` says what. `ssh` can.
        public static let unsupported = Code(kind: .unsupported)
    }

    /// What kind of failure it is, for programs.
    public var code: Code
    /// What failed and how to fix it, for people; safe for a terminal.
    public var message: String
    /// What libssh2 cannot do and `ssh` can that may be behind a failed login; empty: `ssh` would fail as well.
    public var limits: [EngineLimit]

    /// - Parameters:
    ///   - code: What kind of failure it is.
    ///   - message: What failed and how to fix it.
    ///   - limits: What libssh2 cannot do and `ssh` can.
    public init(_ code: Code, _ message: String, limits: [EngineLimit] = []) {
        self.code = code
        self.message = message
        self.limits = limits
    }

    public var description: String { message }

    /// A name on the way does not resolve.
    package var isOfUnknownName: Bool {
        code == .connectionFailed && (message.contains("resolve") || message.contains("no address"))
    }

    /// The same failure as byte streams and paths tell it.
    public var streamError: StreamError {
        let streamCode: StreamError.Code =
            switch code.kind {
            case .hostKeyRefused, .authenticationRefused: .authentication
            case .connectionFailed, .unsupported: .unreachable
            case .timedOut: .timedOut
            case .busy, .sessionLimit: .draining
            case .connectionLost: .truncated
            case .closed: .closed
            case .prohibited, .requestDenied: .denied
            case .refused: .refused
            case .limit: .limit
            case .negotiationFailed, .protocolViolation: .protocolViolation
            case .commandFailed, .transferFailed, .system: .system
            }
        return StreamError(streamCode, message)
    }
}

extension SSHError {
    /// Somebody has stopped a transfer.
    package static var interrupted: SSHError { SSHError(.closed, "the transfer was interrupted") }
}
