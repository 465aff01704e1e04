/// Where a private key is.
public enum SSHCredential: Hashable, Sendable {
    /// A private key file in OpenSSH's or a PEM format, encrypted or not.
    case keyFile(path: String)
    /// A user certificate for one of the keys (`CertificateFile`); the one beside a key file (`id-cert.pub`) is found
    /// by itself.
    case certificateFile(path: String)
    /// The contents of such a file; `name` stands for it in messages.
    case key([UInt8], name: String)
    /// The keys of the ssh-agent that listens on this socket (`SSH_AUTH_SOCK`).
    case agent(socketPath: String)
}
