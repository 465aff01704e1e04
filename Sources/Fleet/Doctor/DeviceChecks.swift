package import H2Transport
import MeshIdentity
import MeshPaths
import Platform
import SSHSignal
package import Streams

/// Everything that has to be right for one destination, in the order in which a failure would show; what needs a check
/// that failed is skipped.
package struct DeviceChecks: Sendable {
    private let destination: String
    private let device: Device?
    private let logins: LoginOptions
    private let agent: AgentBinary?
    private let records: DeviceDirectory
    private let trust: OperatorTrust
    private let context: @Sendable (Device) throws -> TLSContext
    private let report: @Sendable (Finding) -> Void

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
    private var hasAgent: Bool { device.map { ($0.keyOrigin ?? .device) == .device } ?? true }

    private func skip(_ checks: [String], because other: String) {
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

    // MARK: The machine

    private func look(_ client: SSHClient, _ isTrusted: Bool) async {
        do {
            let usual = DeviceEnrollment.Installation.defaultBases
            let bases = device?.base.map { base in [base] + usual } ?? usual
            let name = device?.name ?? destination
            let inspection = try await DeviceInspection.run(on: client, agent: agent, bases: bases, name: name)
            shell(inspection)
            if hasAgent {
                fit(inspection)
                installation(inspection)
                service(inspection)
            }
            clock(inspection)
        } catch let error as SSHError {
            let explanation = SSHErrorExplanation(error, destination: destination, isLoggedIn: true)
            report(.failure("shell", error.message, fix: explanation.fix, explanation.reason))
            skip(["fit", "installation", "service", "clock"], because: "a shell")
        } catch {
            report(
                .failure(
                    "shell",
                    "\(error)",
                    fix:
                        "`ssh \(destination) 'exec sh -s' </dev/null` must run and print nothing: look at the account's rc files and its shell"
                )
            )
            skip(["fit", "installation", "service", "clock"], because: "a shell")
        }
        await sessions(client)
        if hasAgent { await forwarding(client) }
        guard isTrusted else { return skip(["certificate"], because: "a device that is not revoked") }
        await certificate(client)
    }

    private func shell(_ inspection: DeviceInspection) {
        let milliseconds = Int(inspection.duration / .milliseconds(1))
        let facts = inspection.facts
        let what = "\(facts.operatingSystem) \(facts.architecture), user \(facts.user), answered in \(milliseconds) ms"
        guard milliseconds > 3000 else { return report(.good("shell", what)) }
        report(
            .warning(
                "shell",
                what,
                fix: "the account's rc files are slow (.bashrc); leave them early where $- has no i"
            )
        )
    }

    private func fit(_ inspection: DeviceInspection) {
        guard let agent else { return report(.skipped("fit", because: "an agent to upload")) }
        do throws(HostError) {
            report(.good("fit", "the agent fits in \(try inspection.place(for: agent))"))
        } catch {
            report(
                .failure(
                    "fit",
                    error.message,
                    fix: "bootstrap enroll --agentless \(destination) needs no program there"
                )
            )
        }
    }

    /// What other installations do there, or have left.
    private func installation(_ inspection: DeviceInspection) {
        let bases = inspection.facts.bases
        if let base = bases.first(where: { $0.installer != nil }), let process = base.installer {
            report(
                .warning(
                    "installation",
                    "another bootstrap (process \(process) there) is installing in \(base.path)/bootstrap",
                    fix:
                        "wait for it; a connection that died holds the lock until the machine's sshd notices (ClientAliveInterval)"
                )
            )
        } else if let base = bases.first(where: \.hasLeftovers) {
            report(
                .warning(
                    "installation",
                    "one in \(base.path)/bootstrap was cut; nothing of it is in use",
                    fix: "bootstrap enroll \(device?.destination ?? destination) removes what it left, and finishes"
                )
            )
        } else {
            report(.good("installation", "none is under way, none was cut"))
        }
    }

    /// Whether the agent comes back after a reboot.
    private func service(_ inspection: DeviceInspection) {
        let found = inspection.facts.surroundings
        let isRoot = found.privilege == .root
        switch found.initSystem {
        case .systemd where isRoot, .openrc where isRoot, .procd where isRoot:
            report(.good("service", "\(found.initSystem.rawValue) starts it at boot"))
        case .systemd where found.hasUserBus && found.lingers:
            report(.good("service", "the account's own systemd starts it at boot"))
        case .systemd where found.hasUserBus:
            report(
                .warning(
                    "service",
                    "the account's systemd runs only while somebody is logged in",
                    fix: "there: loginctl enable-linger (as root: loginctl enable-linger \(inspection.facts.user))"
                )
            )
        case _ where found.runsCron:
            report(.good("service", "cron starts it at boot (@reboot)"))
        default:
            report(
                .warning(
                    "service",
                    "nothing is known there that starts a program at boot: a reboot ends the agent",
                    fix: "install cron, or log in as root where the machine has systemd, OpenRC or procd"
                )
            )
        }
    }

    private func clock(_ inspection: DeviceInspection) {
        let skew = inspection.skew
        let fix = "set it (date -u -s), or have it set (systemd-timesyncd, chrony, ntpd)"
        switch abs(skew.milliseconds) {
        case ..<ClockSkew.warningThreshold: report(.good("clock", "\(abs(skew.milliseconds)) ms apart at most"))
        case ..<ClockSkew.consequenceThreshold: report(.warning("clock", "\(skew)", fix: fix))
        case ..<(IssuanceOptions.defaultLifetime.components.seconds * 1000 / 4):
            report(
                .warning(
                    "clock",
                    "\(skew): certificates are dated back for it, but it refuses new ones of others",
                    fix: fix
                )
            )
        default: report(.failure("clock", "\(skew): it gets no certificate", fix: fix))
        }
    }

    /// Two commands at once: what `connect` and `renew` at the same time need.
    private func sessions(_ client: SSHClient) async {
        do throws(SSHError) {
            let first = try await client.execute("exec cat")
            defer { first.loop.submit { first.withValue { $0.close() } } }
            let second = try await client.execute("exec cat")
            second.loop.submit { second.withValue { $0.close() } }
            report(.good("sessions", "more than one at a time"))
        } catch {
            let explanation = SSHErrorExplanation(error, destination: destination, isLoggedIn: true)
            report(.warning("sessions", error.message, fix: explanation.fix))
        }
    }

    /// What the path `h2-over-ssh` rests on: a channel to the node's own port.
    private func forwarding(_ client: SSHClient) async {
        guard let port = device?.hbone.first?.port else {
            return report(.skipped("forwarding", because: "an enrolled device"))
        }
        do throws(StreamError) {
            let channel = try await client.openDirectTCPIP(host: "127.0.0.1", port: port)
            client.loop.submit { channel.withValue { $0.reset(StreamError(.closed, "only a test")) } }
            report(.good("forwarding", "sshd connects to port \(port) there"))
        } catch {
            switch error.code {
            case .denied:
                report(
                    .warning(
                        "forwarding",
                        error.message,
                        fix:
                            "AllowTcpForwarding yes in sshd_config makes the fallback faster; without it streams go through the agent"
                    )
                )
            default:
                report(
                    .failure(
                        "forwarding",
                        "nothing listens on port \(port) of the machine: its node does not run (\(error.message))",
                        fix:
                            "bootstrap enroll \(device?.destination ?? destination) starts it; its log is \(device?.agent.state ?? "")/node.log"
                    )
                )
            }
        }
    }

    private func certificate(_ client: SSHClient) async {
        guard let device else { return report(.skipped("certificate", because: "an enrolled device")) }
        // Without an agent the directory is the credential's own.
        let file = hasAgent ? "\(device.agent.state)/identity/cert-chain.pem" : "\(device.agent.state)/cert-chain.pem"
        let renew = "bootstrap renew \(device.name)"
        do {
            let certificates = try Certificate.all(pem: try await client.download(file, limit: 1 << 20))
            guard let leaf = certificates.first else {
                return report(.failure("certificate", "\(file) is empty", fix: renew))
            }
            let now = WallClock.system.milliseconds / 1000
            let end = Timestamp.text(leaf.notAfter)
            let lifetime = max(1, leaf.notAfter - leaf.notBefore)
            if leaf.notAfter <= now {
                report(.failure("certificate", "it ended at \(end)", fix: renew))
            } else if leaf.notAfter - now < lifetime / 4 {
                report(.warning("certificate", "it ends at \(end)", fix: renew))
            } else {
                report(.good("certificate", "valid until \(end)"))
            }
        } catch {
            report(
                .failure(
                    "certificate",
                    "\(file): \(error)",
                    fix: hasAgent ? "bootstrap enroll \(device.destination)" : renew
                )
            )
        }
    }

    // MARK: The native path

    /// With the real handshake: a port that takes connections proves nothing.
    private func nativePath(_ device: Device, on loop: EventLoop) async {
        let context: TLSContext
        do {
            context = try self.context(device)
        } catch {
            return report(.failure("path h2", "there is no credential to show: \(error)", fix: "bootstrap ca init"))
        }
        var findings: [Finding] = []
        for authority in device.hbone {
            let finding = await tryPath(authority, context, device.identity, on: loop)
            if finding.verdict == .good { return report(finding) }
            findings.append(finding)
        }
        if findings.isEmpty {
            findings = [
                .warning("path h2", "no address of it is known", fix: "bootstrap enroll \(device.destination)")
            ]
        }
        for finding in findings { report(finding) }
    }

    private func tryPath(
        _ authority: Authority,
        _ context: TLSContext,
        _ expected: SPIFFEID,
        on loop: EventLoop
    ) async -> Finding {
        do {
            let addresses = try await Resolver.resolve(host: authority.host, port: authority.port)
            guard let address = addresses.first else { throw StreamError(.unreachable, "\(authority) has no address") }
            let answer = try await TunnelProbe.run(
                address,
                context: context,
                expecting: .identities([expected]),
                on: loop
            )
            return .good("path h2", "\(authority) is \(expected), in \(Int(answer.duration / .milliseconds(1))) ms")
        } catch let error as StreamError {
            return explain(error, "\(authority)")
        } catch {
            return .failure("path h2", "\(authority): \(error)", fix: nil)
        }
    }

    private func explain(_ error: StreamError, _ address: String) -> Finding {
        let fallback = "streams go over SSH until then"
        switch error.code {
        case .authentication:
            return .failure(
                "path h2",
                "\(address): \(error.message)",
                fix:
                    "bootstrap renew \(device?.name ?? destination) gives it a certificate of the present CA; never is another path taken instead",
                .authenticationRefused
            )
        case .timedOut:
            return .warning(
                "path h2",
                "\(address): no answer (filtered): \(error.message)",
                fix: "open that TCP port in the firewalls on the way; \(fallback)"
            )
        case .refused:
            return .warning(
                "path h2",
                "\(address): nobody listens there",
                fix: "start its node (bootstrap enroll), or open the firewall that refuses it; \(fallback)"
            )
        default:
            return .warning("path h2", "\(address): \(error.message)", fix: fallback)
        }
    }
}
