package import H2Transport
import MeshIdentity
import MeshPaths
import Platform
import SSHSignal
package import Streams

/// Everything that has to be right for one destination, in the order in which a failure would show; what needs a check
/// that failed is skipped: the way there, the machine (`DeviceChecks+Machine`), its node (`DeviceChecks+NativePath`).
package struct DeviceChecks: Sendable {
    let destination: String
    let device: Device?
    private let logins: LoginOptions
    let agent: AgentBinary?
    private let records: DeviceDirectory
    private let trust: OperatorTrust
    let context: @Sendable (Device) throws -> TLSContext
    let report: @Sendable (Finding) -> Void

    /// - Parameters:
    ///   - destination: As the user wrote it.
    ///   - device: nil: it was never enrolled.
    ///   - logins: How to log in.
    ///   - agent: What would be uploaded.
    ///   - records: For a machine that is a device by another name.
    ///   - trust: Who is revoked.
    ///   - context: Who we are in the mesh, and whom we trust; throws without a CA.
    ///   - report: Called from any task.
    package init(
        _ destination: String,
        device: Device?,
        logins: LoginOptions,
        agent: AgentBinary?,
        records: DeviceDirectory,
        trust: OperatorTrust,
        context: @escaping @Sendable (Device) throws -> TLSContext,
        report: @escaping @Sendable (Finding) -> Void
    ) {
        self.destination = destination
        self.device = device
        self.logins = logins
        self.agent = agent
        self.records = records
        self.trust = trust
        self.context = context
        self.report = report
    }

    package func run(on loop: EventLoop) async {
        guard let login = configuration() else {
            return skip(
                ["login", "shell", "fit", "installation", "service", "clock", "sessions", "forwarding"],
                because: "a configuration"
            )
        }
        let isTrusted = device.map(record) ?? true
        if let client = await connect(login, on: loop) {
            if device == nil { identify(client.hostKey) }
            await look(client, isTrusted)
            await client.close()
        } else {
            if device == nil { report(unknown) }
            skip(
                ["shell", "fit", "installation", "service", "clock", "sessions", "forwarding", "certificate"],
                because: "a login"
            )
        }
        guard let device else { return }
        // What would help there is refused to it.
        guard isTrusted else { return skip(["path h2"], because: "a device that is not revoked") }
        hostCertificates()
        if hasAgent { await nativePath(device, on: loop) }
    }

    /// Those that the ledger knows of; who has no other way to trust the host is locked out when they end.
    private func hostCertificates() {
        guard let device, let server = device.sshServer, let end = server.notAfter else { return }
        let now = WallClock.system.milliseconds / 1000
        let fix = "bootstrap renew --ssh-host-cert \(device.name)"
        let text = Timestamp.text(end)
        if end <= now {
            report(.failure("ssh certificate", "the SSH host certificate ended at \(text)", fix: fix))
        } else if server.isDue(at: now) {
            report(.warning("ssh certificate", "the SSH host certificate ends at \(text)", fix: fix))
        } else {
            report(.good("ssh certificate", "the SSH host certificate is valid until \(text)"))
        }
    }

    /// A device without one keeps files only: nothing of ours runs there.
    var hasAgent: Bool { device.map { ($0.keyOrigin ?? .device) == .device } ?? true }

    func skip(_ checks: [String], because other: String) {
        for check in checks { report(.skipped(check, because: other)) }
    }

    private var unknown: Finding {
        .warning("record", "\(destination) is not enrolled", fix: "bootstrap enroll \(destination)")
    }

    /// - Returns: Whether it is not revoked.
    private func record(_ device: Device) -> Bool {
        do throws(DeviceDirectoryError) {
            if let refusal = try trust.refusal(of: device) {
                report(.failure("record", refusal.message, fix: reinstating(device), refusal.reason))
                return false
            }
        } catch {
            report(.failure("record", error.message, fix: nil))
            return true
        }
        if let refusal = device.certificateRefusal {
            report(.failure("record", refusal.text, fix: refusal.fix))
            return true
        }
        report(.good("record", "\(device.identity), enrolled \(Timestamp.text(device.enrolledAt))"))
        return true
    }

    private func reinstating(_ device: Device) -> String {
        "if it is to be trusted again: bootstrap enroll \(device.destination) --name \(device.name) --reinstate"
    }

    /// A machine that is no device by this name may be one by another.
    private func identify(_ hostKey: HostKey) {
        let known = (try? records.devices(withHostKey: hostKey.fingerprint)) ?? []
        if let revoked = known.first(where: { ((try? trust.refusal(of: $0)) ?? nil) != nil }),
            let refusal = (try? trust.refusal(of: hostKey)) ?? nil
        {
            return report(.failure("record", refusal.message, fix: reinstating(revoked), refusal.reason))
        }
        // One that has shown it, before one that only says it has it.
        let proven = known.first { $0.hostKey.fingerprint == hostKey.fingerprint }
        guard let other = proven ?? known.first else { return report(unknown) }
        report(
            .warning(
                "record",
                "\(destination) is enrolled as \(other.name): it shows that host key",
                fix: "bootstrap doctor \(other.name)"
            )
        )
    }

    // MARK: The way there

    private func configuration() -> SSHLogin? {
        do throws(SSHConfigurationError) {
            let target = try Destination(parsing: device?.destination ?? destination)
            let login = try logins.login(to: target, recorded: device?.ssh.arguments) { [report] in
                report(.warning("ssh_config", $0, fix: nil))
            }
            let found = login.configuration
            let way = found.proxyJump.map { "\($0)" }.joined(separator: ", ")
            let by = way.isEmpty ? "" : ", by way of \(way)"
            report(.good("ssh_config", "\(found.user)@\(found.hostName), port \(found.port)\(by)"))
            return login
        } catch {
            report(.failure("ssh_config", "\(error)", fix: "correct that line, or name another file with -F", .usage))
            return nil
        }
    }

    private func connect(_ login: SSHLogin, on loop: EventLoop) async -> SSHClient? {
        let start = ContinuousClock.now
        do throws(SSHError) {
            let client = try await login.connect(on: loop)
            report(.good("host key", "\(client.hostKey)"))
            let milliseconds = (ContinuousClock.now - start) / .milliseconds(1)
            report(
                .good("login", "\(login.configuration.user) at \(client.serverVersion), in \(Int(milliseconds)) ms")
            )
            if let device, device.hostKey != .init(client.hostKey) {
                report(
                    .failure(
                        "host key",
                        "\(device.name) was enrolled with \(device.hostKey.algorithm) \(device.hostKey.fingerprint)",
                        fix:
                            "if the machine was installed anew: bootstrap enroll --accept-new-host-key \(device.destination)",
                        .hostKeyRefused
                    )
                )
            }
            return client
        } catch {
            let explanation = SSHErrorExplanation(error, destination: destination)
            report(.failure(explanation.check, error.message, fix: explanation.fix, explanation.reason))
            return nil
        }
    }
}
