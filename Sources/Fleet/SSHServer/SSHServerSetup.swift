package import MeshIdentity
import Platform
package import SSHSignal
package import Streams

/// Gives a device's sshd certificates of our CA for its host keys, and has it trust those of our users: at the user's
/// request, and so that the way back in is never lost. What is changed is tested (`sshd -t`), read by sshd, and
/// confirmed by new connections; until then the device itself takes everything back as soon as this side is gone.
package struct SSHServerSetup: Sendable {
    package struct Options: Sendable {
        /// What the device is called, by its record and in messages.
        package var name: String
        /// Its host keys get certificates.
        package var certifiesHost: Bool
        /// `TrustedUserCAKeys` gets the CA's key for users.
        package var trustsUsers: Bool
        /// Names and addresses the certificates are good for, beside those that the login knows.
        package var principals: [String] = []
        package var lifetime = SSHServerSetup.defaultLifetime
        /// sshd_config, absolute; nil: the one of the sshd that serves the login.
        package var configuration: String?

        package init(name: String, certifiesHost: Bool, trustsUsers: Bool) {
            self.name = name
            self.certifiesHost = certifiesHost
            self.trustsUsers = trustsUsers
        }
    }

    /// Thirty days.
    package static let defaultLifetime = Duration.seconds(30 * 86_400)

    private let options: Options
    private let authority: SSHCertificateAuthority
    private let report: @Sendable (EnrollmentProgress) -> Void

    package init(
        _ options: Options,
        authority: SSHCertificateAuthority,
        report: @escaping @Sendable (EnrollmentProgress) -> Void
    ) {
        self.options = options
        self.authority = authority
        self.report = report
    }

    /// What a host certificate is good for: the names that the login uses, those of the device, and those that were
    /// asked for. In lower case, as ssh compares them. Never what the device says of itself: that could be another's
    /// name.
    package func principals(for login: SSHLogin) -> [String] {
        let configuration = login.configuration
        var names: [String] = []
        let all = [configuration.hostKeyAlias, configuration.hostName, configuration.destination.host, options.name]
        for name in (all.compactMap { $0 } + options.principals).map({ $0.lowercased() }) where !names.contains(name) {
            names.append(name)
        }
        return names
    }

    /// Logs in, makes the change, and confirms it by new connections.
    ///
    /// - Parameters:
    ///   - login: Used once more to see that it still works.
    ///   - hostKey: The device's, as it is recorded: another one is refused.
    ///   - loop: Where the SSH sessions live.
    /// - Throws: ``HostError``; sshd is then as it was before, unless the message says what is left.
    package func run(
        _ login: SSHLogin,
        hostKey: Device.HostKeyRecord,
        on loop: EventLoop
    ) async throws(HostError) -> SSHServerRecord {
        guard !options.certifiesHost || HostCertificateConfirmation.isPossible else {
            throw HostError(
                .unfit,
                "\(options.name): whether its sshd shows the certificate is confirmed with the ssh program, and there is none in "
                    + "PATH here (apt install openssh-client); its sshd is left as it is"
            )
        }
        let start = ContinuousClock.now
        return try await login.visit(options.name, on: loop) { client in
            guard Device.HostKeyRecord(client.hostKey) == hostKey else {
                throw HostError(
                    .hostKeyRefused,
                    "\(options.name): this login shows the host key \(client.hostKey), and it is recorded with "
                        + "\(hostKey.fingerprint) (\(hostKey.algorithm)); its sshd is left as it is"
                )
            }
            let shell = RemoteShell(try await privilegedChannel(client), name: options.name)
            defer { shell.channel.close() }
            let record = try await change(shell, client, login, on: loop)
            report(.step("sshd", describe(record), .now - start))
            return record
        }
    }

    /// A shell of root's.
    private func privilegedChannel(_ client: SSHClient) async throws -> any RemoteChannel {
        try await Self.privilegedChannel(client, name: options.name)
    }

    /// - Parameter purpose: Why it has to be root's, for the refusal.
    static func privilegedChannel(
        _ client: SSHClient,
        name: String,
        purpose: String = "sshd's configuration is root's"
    ) async throws -> any RemoteChannel {
        let channel = try await SSHProcessChannel(client, command: RemoteShell.command)
        let shell = RemoteShell(channel, name: name)
        let privilege: String?
        do {
            privilege = try await shell.run(SSHServerScript.privilege, step: "privilege").values["privilege"]
        } catch {
            channel.close()
            throw error
        }
        if privilege == "root" { return channel }
        channel.close()
        guard let privilege, ["sudo", "doas"].contains(privilege) else {
            throw HostError(
                .unfit,
                "\(name): \(purpose), and this account is neither root nor has sudo without a password "
                    + "(NOPASSWD); its sshd is left as it is"
            )
        }
        return try await SSHProcessChannel(client, command: "exec \(privilege) -n sh -s")
    }

    // MARK: The change

    /// Everything after the login, for the shell of somebody who may.
    private func change(
        _ shell: RemoteShell,
        _ client: SSHClient,
        _ login: SSHLogin,
        on loop: EventLoop
    ) async throws -> SSHServerRecord {
        let found = try await shell.run(SSHServerScript.find(configuration: options.configuration), step: "sshd")
        let server = try SSHServerFacts(found, name: options.name)
        let plan = try Plan(options, server, authority, proven: client.hostKey, principals(for: login))
        for warning in plan.warnings { report(.warning("\(options.name): \(warning)")) }
        try await Self.apply(plan.changes, effective: plan.effective, server, shell, name: options.name)
        do {
            try await confirm(plan, login, client.hostKey, on: loop)
        } catch {
            throw await takeBack(server, shell, after: error)
        }
        try await Self.keep(server, shell)
        return plan.record
    }

    /// Until ``keep(_:_:)`` the shell takes the change back when its input ends, which it does with this process or the
    /// connection.
    ///
    /// - Returns: What the device said.
    @discardableResult
    static func apply(
        _ changes: [SSHServerScript.Change],
        effective: [String],
        _ server: SSHServerFacts,
        _ shell: RemoteShell,
        name: String
    ) async throws -> RemoteShell.Output {
        let undo = ShellScript.quote(SSHServerScript.undo(server))
        try await shell.channel.write(Array("trap '' HUP PIPE; trap \(undo) EXIT\n".utf8))
        let output = try await shell.run(
            SSHServerScript.apply(changes, effective: effective, server),
            step: "sshd",
            timeout: .seconds(60)
        )
        guard output.status != 0 else { return output }
        let reason = output.values["error"] ?? output.lines.suffix(3).joined(separator: " ")
        let left = output.values["left"].map { "; not taken back: \(Printable.clean($0, limit: 400))" } ?? ""
        throw HostError(.failed, "\(name): sshd: \(Printable.clean(reason, limit: 800))\(left)")
    }

    static func keep(_ server: SSHServerFacts, _ shell: RemoteShell) async throws {
        _ = try await shell.run(SSHServerScript.keep(server), step: "sshd")
        try await shell.channel.write(Array("trap - EXIT\n".utf8))
    }

    private func takeBack(
        _ server: SSHServerFacts,
        _ shell: RemoteShell,
        after error: any Error
    ) async -> HostError {
        let reason = HostError(error, name: options.name).message
        let output = try? await shell.run(SSHServerScript.undo(server), step: "sshd", timeout: .seconds(60))
        let outcome: String
        switch output {
        case let output? where output.status == 0: outcome = "the change was taken back, and sshd is as it was before"
        case let output?:
            outcome = "not taken back: \(Printable.clean(output.values["left"] ?? "", limit: 400))"
        case nil: outcome = "the connection is gone as well; the device takes the change back by itself"
        }
        return HostError(.failed, "\(reason); \(outcome)")
    }

    // MARK: Its confirmation

    private func confirm(_ plan: Plan, _ login: SSHLogin, _ hostKey: HostKey, on loop: EventLoop) async throws {
        if let certificate = plan.proven {
            try await HostCertificateConfirmation(
                login: login,
                authority: authority.publicKey(.host),
                certificate: certificate,
                name: options.name
            ).run(on: loop)
        }
        // The way everybody takes who has no certificate.
        let client = try await Self.again(login, on: loop)
        let shown = client.hostKey
        await client.close()
        guard shown == hostKey else {
            throw HostError(.failed, "\(options.name): a new connection shows another host key: \(shown)")
        }
    }

    /// sshd is deaf for a moment while it starts anew.
    private static func again(_ login: SSHLogin, on loop: EventLoop) async throws(SSHError) -> SSHClient {
        var attempt = 1
        while true {
            do throws(SSHError) {
                return try await login.connect(on: loop)
            } catch {
                guard error.code == .connectionFailed, attempt < 6 else {
                    throw SSHError(error.code, "the login does not work any more on a new connection: \(error.message)")
                }
                try? await Task.sleep(for: .milliseconds(200 << attempt))
                attempt += 1
            }
        }
    }

    private func describe(_ record: SSHServerRecord) -> String {
        var parts = record.hostCertificates.map { certificate in
            "host certificate for \(certificate.algorithm) \(certificate.fingerprint)"
                + (certificate.isProven ? "" : " (by the device's word)")
        }
        if let first = record.hostCertificates.first {
            parts.append("principals \(first.principals.joined(separator: ", "))")
            parts.append("until \(Timestamp.text(first.notAfter))")
        }
        if record.userAuthority != nil, let file = record.userAuthorityFile { parts.append("users' CA in \(file)") }
        parts.append("by \(record.dropIn ?? "lines in \(record.configuration)")")
        return parts.joined(separator: ", ")
    }
}
