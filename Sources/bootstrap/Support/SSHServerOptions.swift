import ArgumentParser
import MeshIdentity
import Platform
import SSHSignal
import Streams

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

/// Sets up the sshd of enrolled devices, or renews what was set up.
struct SSHServerRun: Sendable {
    var authority: SSHCertificateAuthority
    var certifiesHost: Bool
    var trustsUsers: Bool
    var principals: [String] = []
    /// nil: as long as before, or the default.
    var lifetime: Duration?
    var caHosts: String?
    var configuration: String?

    /// Does what was asked for, and again what is recorded.
    ///
    /// - Parameters:
    ///   - device: As it is recorded.
    ///   - say: A line for people.
    /// - Returns: The record, as it is now.
    func callAsFunction(
        _ device: DeviceRecord,
        _ login: SSHLogin,
        on loop: EventLoop,
        report: @escaping @Sendable (DeviceEnrollment.Progress) -> Void,
        say: (String) -> Void
    ) async throws(EnrollmentError) -> DeviceRecord {
        let before = device.sshServer
        let recorded = before?.hostCertificates ?? []
        var options = SSHServerSetup.Options(
            name: device.name,
            certifiesHost: certifiesHost || !recorded.isEmpty,
            trustsUsers: trustsUsers || before?.userAuthority != nil
        )
        options.principals = principals + (recorded.first?.principals ?? [])
        options.configuration = configuration ?? before?.configuration
        if let lifetime {
            options.lifetime = lifetime
        } else if let first = recorded.first {
            // Its beginning is some minutes before it was signed.
            options.lifetime = .seconds(first.notAfter - first.notBefore - SSHCertificateAuthority.backdating)
        }
        let setup = SSHServerSetup(options, authority: authority, report: report)
        var changed = device
        changed.sshServer = try await setup.run(login, hostKey: device.hostKey, on: loop)
        guard let certificate = changed.sshServer?.hostCertificates.first, certifiesHost else { return changed }
        let line = CertificateAuthorityLine(
            trusting: authority.publicKey(.host),
            for: certificate.principals,
            patterns: caHosts,
            login: login
        )
        do throws(SSHConfigurationError) {
            guard let file = line.file else {
                report(.warning("\(device.name): there is no known_hosts file to write to; it would be: \(line.text)"))
                return changed
            }
            if try line.add() { say("\(device.name)  \(file): \(line.text)") }
        } catch {
            report(
                .warning("\(device.name): known_hosts does not trust the CA yet: \(error); the line is: \(line.text)")
            )
        }
        return changed
    }
}

extension SSHServerRun {
    /// Whether what is recorded has all that is asked for.
    func isDone(_ record: SSHServerRecord?) -> Bool {
        guard let record else { return false }
        return (!certifiesHost || !record.hostCertificates.isEmpty) && (!trustsUsers || record.userAuthority != nil)
            && !record.isDue(at: currentTime())
    }
}

extension DeviceDirectory {
    /// Records a device whose sshd was changed.
    func save(_ device: DeviceRecord, ssh: SSHServerRecord?, by command: String) throws(EnrollmentError) {
        do throws(DeviceDirectoryError) {
            try save(device, by: command, ssh?.summary ?? "nothing in sshd")
        } catch {
            throw EnrollmentError(.failed, "its sshd is set up, and that is not recorded: \(error.message)")
        }
    }
}

extension SSHServerRecord {
    /// For the ledger's events.
    var summary: String {
        var parts = hostCertificates.map {
            "SSH host certificate \($0.serial) for \($0.algorithm) until \(describe(time: $0.notAfter))"
        }
        if userAuthority != nil { parts.append("SSH user CA") }
        return parts.joined(separator: ", ")
    }
}
