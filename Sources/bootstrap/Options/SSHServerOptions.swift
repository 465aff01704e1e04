import ArgumentParser
import Fleet
import MeshIdentity
import Platform
import SSHSignal

/// What `enroll` is to do with a device's sshd.
struct SSHServerOptions: ParsableArguments {
    @Flag(
        help: ArgumentHelp(
            "Sign the machine's SSH host keys with the CA (`bootstrap ca ssh`), have its sshd show the certificates, and trust the CA for "
                + "this host in known_hosts. Needs root or sudo there; tested, confirmed by a new connection, else taken back."
        )
    )
    var sshHostCert = false

    @Flag(
        help: ArgumentHelp(
            "Have the machine's sshd accept user certificates of the CA (TrustedUserCAKeys); tested, confirmed and taken back likewise."
        )
    )
    var sshUserCa = false

    @Option(
        help: ArgumentHelp(
            "A name or address more that the host certificate is good for. (those of the login, and the device's, always)",
            valueName: "NAME"
        )
    )
    var sshPrincipal: [String] = []

    @Option(help: ArgumentHelp("How long the host certificate is valid. (default: 30d)", valueName: "TIME"))
    var sshTtl: DurationArgument?

    @Option(
        help: ArgumentHelp(
            "For which hosts known_hosts trusts the CA: names and patterns with commas. (default: the names in the certificate)",
            valueName: "PATTERNS"
        )
    )
    var sshCaHosts: String?

    @Option(
        help: ArgumentHelp(
            "The configuration of the machine's sshd. (default: that of the sshd which serves the login)",
            valueName: "PATH"
        )
    )
    var sshdConfig: String?

    var isEmpty: Bool { !sshHostCert && !sshUserCa }

    func validate() throws {
        guard !isEmpty || sshdConfig == nil else {
            throw ValidationError("--sshd-config is for --ssh-host-cert and --ssh-user-ca")
        }
        guard sshHostCert || (sshPrincipal.isEmpty && sshTtl == nil && sshCaHosts == nil) else {
            throw ValidationError("--ssh-principal, --ssh-ttl and --ssh-ca-hosts are for --ssh-host-cert")
        }
        guard sshdConfig?.hasPrefix("/") ?? true else { throw ValidationError("--sshd-config is absolute") }
        if let sshCaHosts, sshCaHosts.isEmpty || !sshCaHosts.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) {
            throw ValidationError("--ssh-ca-hosts is a list of names and patterns without spaces")
        }
    }

    /// nil when nothing is asked for.
    ///
    /// - Throws: the exit code; why was printed.
    func load(_ access: CAAccess) throws -> SSHServerRun? {
        guard !isEmpty else { return nil }
        return SSHServerRun(
            authority: try access.loadSSH(),
            certifiesHost: sshHostCert,
            trustsUsers: sshUserCa,
            principals: sshPrincipal,
            lifetime: sshTtl?.duration,
            caHosts: sshCaHosts,
            configuration: sshdConfig
        )
    }
}
