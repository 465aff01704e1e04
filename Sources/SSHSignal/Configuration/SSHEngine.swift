/// What makes the SSH connection.
public enum SSHEngine: String, Hashable, Sendable, Codable, CaseIterable {
    /// ``libssh2``, and ``openSSH`` for what it cannot do. A node also has ``openSSH`` carry bulk.
    case automatic = "auto"
    /// The library in this process: the faster one for a login and for a round trip.
    case libssh2
    /// The user's own `ssh` program: whatever `ssh HOST` can do.
    case openSSH = "openssh"
}
