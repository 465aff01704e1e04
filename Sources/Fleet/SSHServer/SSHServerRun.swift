package import MeshIdentity
import Platform
package import SSHSignal
package import Streams

/// Sets up the sshd of enrolled devices, or renews what was set up.
package struct SSHServerRun: Sendable {
    package var authority: SSHCertificateAuthority
    package var certifiesHost: Bool
    package var trustsUsers: Bool
    package var principals: [String]
    /// nil: as long as before, or the default.
    package var lifetime: Duration?
    package var caHosts: String?
    package var configuration: String?

    package init(
        authority: SSHCertificateAuthority,
        certifiesHost: Bool,
        trustsUsers: Bool,
        principals: [String] = [],
        lifetime: Duration? = nil,
        caHosts: String? = nil,
        configuration: String? = nil
    ) {
        self.authority = authority
        self.certifiesHost = certifiesHost
        self.trustsUsers = trustsUsers
        self.principals = principals
        self.lifetime = lifetime
        self.caHosts = caHosts
        self.configuration = configuration
    }

    /// Does what was asked for, and again what is recorded.
    ///
    /// - Parameters:
    ///   - device: As it is recorded.
    ///   - say: A line for people.
    /// - Returns: The record, as it is now.
    package func callAsFunction(
        _ device: Device,
        _ login: SSHLogin,
        on loop: EventLoop,
        report: @escaping @Sendable (EnrollmentProgress) -> Void,
        say: (String) -> Void
    ) async throws(HostError) -> Device {
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
            options.lifetime = .seconds(first.lifetime)
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
    package func isDone(_ record: SSHServerRecord?) -> Bool {
        guard let record else { return false }
        return (!certifiesHost || !record.hostCertificates.isEmpty) && (!trustsUsers || record.userAuthority != nil)
            && !record.isDue(at: WallClock.system.seconds)
    }
}

extension DeviceDirectory {
    /// Records a device whose sshd was changed: that of this machine, not of another that has its name by now.
    package func save(_ device: Device, ssh: SSHServerRecord?, by command: String) throws(HostError) {
        do throws(DeviceDirectoryError) {
            try update(device.name, of: device.hostKey, by: command, ssh?.summary ?? "nothing in sshd") {
                $0.sshServer = ssh
            }
        } catch {
            throw HostError(.failed, "its sshd is set up, and that is not recorded: \(error.message)")
        }
    }
}

extension SSHServerRecord {
    /// For the ledger's events.
    package var summary: String {
        var parts = hostCertificates.map {
            "SSH host certificate \($0.serial) for \($0.algorithm) until \(describe(time: $0.notAfter))"
        }
        if userAuthority != nil { parts.append("SSH user CA") }
        return parts.joined(separator: ", ")
    }
}
