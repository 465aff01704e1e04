import SSHSignal

/// Where on the way to a login it failed, and what can be done about it. The message of the error itself says what
/// happened.
struct SSHErrorExplanation {
    /// The check that failed.
    let check: String
    let fix: String
    let reason: HostError.Reason

    /// - Parameter isLoggedIn: Whether the server had let us in before it failed.
    init(_ error: SSHError, destination: String, isLoggedIn: Bool = false) {
        switch error.code {
        case .timedOut where isLoggedIn, .connectionLost where isLoggedIn:
            (check, reason) = ("session", .failed)
            fix = """
                the server took the login and stopped answering: its log says why (journalctl -u ssh; dropbear writes to syslog). \
                If it answers to a second try, it was busy
                """
        case .connectionFailed:
            (check, reason) = ("connection", .unreachable)
            fix =
                error.isOfUnknownName
                ? "check the spelling, or give HostName in ~/.ssh/config"
                : """
                check that sshd runs there and listens on this port (ss -tln), and that no firewall refuses it; \
                -p names another port, -J a jump host
                """
        case .timedOut:
            (check, reason) = ("connection", .unreachable)
            fix = """
                nothing came back: the machine is off, the address is another's, or a firewall drops the packets. Where small packets pass and \
                large ones do not, the handshake hangs: lower the MTU of the interface
                """
        case .busy:
            (check, reason) = ("banner", .unreachable)
            fix = """
                the server turns connections away before its banner: too many logins at once (MaxStartups), or a penalty for this address \
                (PerSourcePenalties, fail2ban). Wait a minute; then fewer at a time (--parallel)
                """
        case .negotiationFailed:
            (check, reason) = ("algorithms", .unreachable)
            fix = """
                the two sides share no algorithm. On the machine, an ECDSA or Ed25519 host key fixes it: ssh-keygen -A, then restart sshd; \
                or go by way of the ssh program: --ssh-engine openssh
                """
        case .hostKeyRefused:
            (check, reason) = ("host key", .hostKeyRefused)
            fix = """
                compare the fingerprint with the machine's own (ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub, on its console). If the machine \
                was installed anew, remove the old line with ssh-keygen -R; nothing is ever sent to a machine with another key
                """
        case .authenticationRefused:
            (check, reason) = ("login", .authenticationRefused)
            fix = """
                ssh-add -l shows what the agent offers, -i names a key; the public half belongs into ~/.ssh/authorized_keys there \
                (0600, in a directory 0700). sshd's log names its reason
                """
        case .prohibited:
            (check, reason) = ("forwarding", .denied)
            fix = "in sshd_config: AllowTcpForwarding yes (or local), and no PermitOpen that leaves the port out"
        case .sessionLimit:
            (check, reason) = ("sessions", .failed)
            fix = "in sshd_config: MaxSessions 10 (its default)"
        case .requestDenied:
            (check, reason) = ("shell", .denied)
            fix = "the account may run no commands (ForceCommand, restrict in authorized_keys, nologin as shell)"
        default:
            (check, reason) = ("session", .failed)
            fix = "try `ssh -v \(destination)`; its last lines before the end name the reason"
        }
    }
}
