import CLibSSH2
import Streams

/// A channel that is asked for (RFC 4254 §5.1) and not answered yet.
final class ChannelOpening {
    enum Kind {
        /// Commands and subsystems.
        case session
        /// A connection that the server makes to `destination`.
        case directTCPIP(destination: String)
        /// A connection that the server makes to a Unix socket.
        case directStreamLocal(path: String)
        /// A type that no server knows. Its refusal is a sign of life, and waiting for it makes libssh2 take in what arrives
        /// while there is no channel.
        case signOfLife
    }

    let kind: Kind
    let type: String
    let message: [UInt8]
    /// The receive window to begin with; the channel opens with half of it.
    var window: Int
    var completion: ((Result<SSHChannel, SSHError>) -> Void)?
    var timer: LoopTimer?

    init(
        _ kind: Kind,
        type: String,
        message: [UInt8] = [],
        window: Int,
        completion: ((Result<SSHChannel, SSHError>) -> Void)?
    ) {
        self.kind = kind
        self.type = type
        self.message = message
        self.window = window
        self.completion = completion
    }

    /// What the server's refusal means for this kind of channel: libssh2 1.10 gives MaxSessions and a closed port the same
    /// text.
    func refusal(_ text: String, peer: String) -> SSHError { Self.refusal(of: kind, text, peer: peer) }

    /// The same for either engine: they word it alike.
    static func refusal(of kind: Kind, _ text: String, peer: String) -> SSHError {
        switch kind {
        case .directTCPIP(let destination):
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
                return SSHError(.refused, "\(peer) could not connect to \(destination): nothing listens there")
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

/// A command or subsystem that is asked for on a session channel and not answered yet.
struct ChannelRequest {
    let channel: SSHChannel
    /// "exec" or "subsystem".
    let type: String
    let argument: String
    let completion: (SSHError?) -> Void
    let timer: LoopTimer
}
