/// What makes the SSH connection.
public enum SSHEngine: String, Hashable, Sendable, Codable, CaseIterable {
    /// ``libssh2``, and ``openSSH`` for what it cannot do.
    case automatic = "auto"
    /// The library in this process: the faster one, for many connections too.
    case libssh2
    /// The user's own `ssh` program: whatever `ssh HOST` can do.
    case openSSH = "openssh"
}
