import MeshIdentity
import Streams

/// What a channel is opened for (RFC 4254 §5.1), and what the server's answers mean for it: the same for either engine.
enum ChannelKind {
    /// Commands and subsystems.
    case session
    /// A connection that the server makes to `host:port` (RFC 4254 §7.2).
    case directTCPIP(host: String, port: UInt16)
    /// A connection that the server makes to a Unix socket (OpenSSH's PROTOCOL §2.4).
    case directStreamLocal(path: String)
    /// A type that no server knows. Its refusal is a sign of life, and waiting for it makes libssh2 take in what
    /// arrives while there is no channel.
    case signOfLife

    /// RFC 4254 §5.1's usual maximum packet; libssh2 takes no more than 40,000 bytes.
    static let maximumPacket: UInt32 = 32768

    /// The channel type on the wire.
    var type: String {
        switch self {
        case .session: "session"
        case .directTCPIP: "direct-tcpip"
        case .directStreamLocal: "direct-streamlocal@openssh.com"
        case .signOfLife: "sign-of-life@bootstrap"
        }
    }

    var isSession: Bool { if case .session = self { true } else { false } }

    /// What the type has of its own in SSH_MSG_CHANNEL_OPEN.
    var message: [UInt8] {
        var message = SSHWireWriter()
        switch self {
        case .session, .signOfLife: break
        case .directTCPIP(let host, let port):
            message.string(host)
            message.uint32(UInt32(port))
            // The originator is for the server's log.
            message.string("127.0.0.1")
            message.uint32(0)
        case .directStreamLocal(let path):
            message.string(path)
            // Reserved, both.
            message.string("")
            message.uint32(0)
        }
        return message.bytes
    }

    /// What the server connects the channel to; nil where that is a command.
    private var destination: String? {
        switch self {
        case .directTCPIP(let host, let port): host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
        case .directStreamLocal(let path): path
        case .session, .signOfLife: nil
        }
    }

    /// Who is at the other end of the channel, for messages.
    func peerDescription(through peer: String) -> String { destination.map { "\($0) through \(peer)" } ?? peer }

    /// What is being opened, for messages.
    var what: String { destination.map { "the connection to \($0)" } ?? "opening an SSH session" }

    /// The server has not answered.
    func timedOut(after timeout: Duration, peer: String) -> SSHError {
        SSHError(.timedOut, "\(what) through \(peer) got no answer within \(timeout)")
    }

    /// What the server's refusal means for this kind of channel: libssh2 1.10 gives MaxSessions and a closed port the
    /// same text, and `ssh` words it alike.
    func refusal(_ text: String, peer: String) -> SSHError {
        switch self {
        case .directTCPIP(let host, _):
            let destination = destination ?? ""
            if text.contains("prohibited") {
                return SSHError(
                    .prohibited,
                    """
                    \(peer) does not forward to \(destination): its sshd_config has AllowTcpForwarding no, \
                    DisableForwarding yes, or a PermitOpen without it (or the key is restricted in authorized_keys)
                    """
                )
            }
            if text.contains("connect failed") {
                // The server's own words are not told.
                let isName = host != "localhost" && (try? SocketAddress(ip: host, port: 0)) == nil
                let why = isName ? "nothing listens there, or the name does not resolve there" : "nothing listens there"
                return SSHError(.refused, "\(peer) could not connect to \(destination): \(why)")
            }
            return SSHError(.refused, "\(peer) did not open \(destination): \(text)")
        case .directStreamLocal(let path):
            // OpenSSH gives the same reason for both.
            if text.contains("connect failed") || text.contains("prohibited") {
                return SSHError(
                    .refused,
                    "\(peer) did not connect to \(path): nobody listens there, or not for this user, or its sshd_config has "
                        + "AllowStreamLocalForwarding no or DisableForwarding yes"
                )
            }
            return SSHError(
                .refused,
                "\(peer) did not open \(path): \(text) (only OpenSSH's server forwards to Unix sockets)"
            )
        case .session, .signOfLife:
            if text.contains("prohibited") {
                return SSHError(.requestDenied, "\(peer) allows no session: \(text)")
            }
            return SSHError(
                .sessionLimit,
                "\(peer) opens no more sessions on this connection (MaxSessions in its sshd_config): \(text)"
            )
        }
    }
}

/// What is started on a session channel (RFC 4254 §6.5).
enum ProcessRequest {
    /// A command line for the account's shell.
    case command(String)
    case subsystem(String)

    /// The request's type on the wire.
    var type: String {
        switch self {
        case .command: "exec"
        case .subsystem: "subsystem"
        }
    }

    var argument: String {
        switch self {
        case .command(let text), .subsystem(let text): text
        }
    }

    /// The receive window of its channel to begin with.
    var window: Int {
        switch self {
        case .command: 1 << 20
        case .subsystem: 256 << 10
        }
    }

    /// The server does not do it.
    func denial(by peer: String) -> SSHError {
        switch self {
        case .command: SSHError(.requestDenied, "\(peer) does not run commands")
        case .subsystem(let name): SSHError(.requestDenied, "\(peer) does not have the subsystem '\(name)'")
        }
    }
}
