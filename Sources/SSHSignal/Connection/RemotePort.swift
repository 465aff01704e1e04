/// A port that the server is to listen on for this side (RFC 4254 §7.1).
struct RemotePort: CustomStringConvertible {
    /// Empty: all addresses.
    let host: String
    /// 0 lets the server choose.
    let port: UInt16

    var description: String { "\(host.isEmpty ? "*" : host):\(port)" }

    /// The server does not listen there. Its answer has no reason (RFC 4254 §4): what it can be is said.
    ///
    /// - Parameter user: The account; nil where it is not known: then it may not be root's.
    func refusal(by peer: String, user: String? = nil) -> SSHError {
        let isPrivileged = port > 0 && port < 1024 && user != "root"
        let root = isPrivileged ? ", or only root may listen on ports below 1024" : ""
        return SSHError(
            .prohibited,
            "\(peer) does not listen on \(self): the port is in use there\(root), or its sshd_config "
                + "has AllowTcpForwarding no or local, DisableForwarding yes or a PermitListen without it (or the key is "
                + "restricted in authorized_keys)"
        )
    }
}
