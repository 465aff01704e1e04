package import MeshIdentity
import Platform
package import SSHSignal
package import Streams

/// Turns an SSH login into a mesh identity: probe, agent, key on the device, certificate, node.
///
/// Over one SSH session and one exec channel: a shell that is fed scripts and the agent's bytes, and is then replaced
/// by `bootstrap signal`. What is there already is left alone, so that a second run renews the certificate and changes
/// nothing else, and a run after one that was cut goes on where that one ended.
package struct DeviceEnrollment: Sendable {
    /// What is put on the device.
    package struct Installation: Sendable {
        package var node: SignalMessage.NodeRequest
        package var agent: AgentBinary
        /// Directories to install below, best first; `~/` is the home directory there.
        package var bases: [String]
        /// A ``ServiceKind``, `auto` for the best the device has; nil leaves what is there.
        package var service: String?

        /// As root for the whole machine, else for the user.
        package static let defaultBases = ["/opt", "~/.local/share", "~"]

        package init(
            node: SignalMessage.NodeRequest = .init(),
            agent: AgentBinary,
            bases: [String] = Installation.defaultBases,
            service: String? = nil
        ) {
            self.node = node
            self.agent = agent
            self.bases = bases
            self.service = service
        }
    }

    private let options: EnrollmentOptions
    private let installation: Installation
    private let issuer: any CertificateIssuer

    package init(_ options: EnrollmentOptions, _ installation: Installation, issuer: any CertificateIssuer) {
        self.options = options
        self.installation = installation
        self.issuer = issuer
    }

    /// Logs in and enrols.
    ///
    /// - Parameters:
    ///   - login: how to reach the device and who to be there.
    ///   - destination: as the user wrote it, for the record.
    ///   - arguments: the SSH flags of the command line.
    ///   - loop: where the SSH session lives.
    package func run(
        _ login: SSHLogin,
        destination: String,
        arguments: SSHArguments,
        on loop: EventLoop
    ) async throws(HostError) -> Device {
        let (visit, hostKey) = try await options.visit(login, on: loop) { channel, former, attest in
            do {
                return try await enroll(over: channel, former: former, attest: attest)
            } catch let error as SignalError where error.isFromPeer && error.code == .node && former == nil {
                throw told(error, whatIsLeftAt: destination)
            }
        }
        let (plan, outcome) = visit
        let (ack, certificate) = (outcome.ack, outcome.certificate)
        var record = Device(
            name: options.name,
            destination: destination,
            ssh: .init(arguments),
            hostKey: hostKey,
            identity: options.id,
            hbone: try Device.addresses(ack, name: options.name),
            agent: .init(path: plan.agentPath, state: plan.statePath, sha256: installation.agent.sha256),
            notAfter: certificate.notAfter,
            enrolledAt: options.clock.seconds,
            serial: try? Certificate.all(pem: Array(certificate.chain.utf8)).first?.serialNumber,
            lifetime: options.terms.span,
            roots: try? Certificate.all(pem: Array(certificate.roots.utf8)).map(\.fingerprint)
        )
        record.attestation = outcome.attestation
        (record.allowed, record.renewFrom, record.listener) = (ack.allowed, ack.renewFrom, ack.listener)
        record.gateways = ack.gateways
        return record
    }

    /// The node comes last: agent and credential are there, and there will be no record of them.
    private func told(_ error: SignalError, whatIsLeftAt destination: String) -> SignalError {
        let isUsual = installation.bases == Installation.defaultBases
        let place = isUsual ? "" : installation.bases.first.map { " --base \(ShellScript.quote($0))" } ?? ""
        var error = error
        error.message += """
            . Its agent and its certificate are there now, and no record here. Once the reason is gone, the same command goes on from \
            there; `bootstrap unenroll \(destination)\(place)` takes away what is there
            """
        return error
    }

    /// Everything after the login, over a channel on which a shell was started.
    ///
    /// - Parameters:
    ///   - former: Where this machine was installed before; refused where that is elsewhere and there still.
    ///   - attest: How its host key signs the request, where that is asked for.
    func enroll(
        over channel: any RemoteChannel,
        former: FormerPlace? = nil,
        attest: Certification.Attest? = nil
    ) async throws -> (InstallationPlan, EnrollmentConversation.Certified) {
        defer { channel.close() }
        let certification = options.certification(issuer, attest: attest)
        return try await channel.watched(for: certification) {
            try await enroll(over: channel, former, certification)
        }
    }

    private func enroll(
        over channel: any RemoteChannel,
        _ former: FormerPlace?,
        _ certification: Certification
    ) async throws -> (InstallationPlan, EnrollmentConversation.Certified) {
        let shell = RemoteShell(channel, name: options.name)
        let plan = try await options.timed("probe") { try await probe(shell) }
        try await former?.check(against: plan.root, name: options.name, shell)
        let credential = "\(plan.statePath)/identity"
        let present = try await shell.presentIdentity(in: credential, occupied: options.occupied)
        let warn: @Sendable (String) -> Void = { [options] in options.warn($0) }
        if let learn = options.learn, let lists = try await shell.revocationLists(in: credential, warn: warn) {
            learn(lists)
        }
        for warning in plan.warnings { options.warn(warning) }
        try await options.timed("agent") { ((), try await install(plan, shell, judged: present)) }
        let start = ContinuousClock.now
        try await AgentInstaller(shell: shell, plan: plan).startSignaling()
        let conversation = EnrollmentConversation(
            channel: channel,
            name: options.name,
            certification: certification,
            clock: options.clock,
            isWatched: true,
            warn: warn
        )
        let purpose = EnrollmentOperator.Purpose.enroll(
            .init(id: options.id.description, node: installation.node, service: installation.service)
        )
        let outcome = try await conversation.certify(purpose)
        let ack = outcome.ack
        report(outcome, after: .now - start)
        // The device's words: so many, and so long.
        for warning in (ack.warnings ?? []).prefix(8) { options.warn(Printable.clean(warning, limit: 600)) }
        return (plan, outcome)
    }

    private func report(_ outcome: EnrollmentConversation.Certified, after elapsed: Duration) {
        let (ack, certificate) = (outcome.ack, outcome.certificate)
        let report = options.report
        report(.step("identity", "\(ack.id), certificate until \(Timestamp.text(certificate.notAfter))", elapsed))
        let unchanged = ack.unchanged.map { Printable.clean($0, limit: 40) }
        let remark = unchanged.isEmpty ? "" : " (unchanged: \(unchanged.joined(separator: ", ")))"
        report(.step("node", "\(Printable.clean(ack.node, limit: 40)), listens on \(ack.listener)\(remark)", nil))
        if let gateways = installation.node.reverse, !gateways.isEmpty {
            let text =
                "holds a connection to \(gateways.joined(separator: ", ")): reached there by an endpoint with 'reverse: true' "
                + "(docs/configuration.md)"
            report(.step("gateway", text, nil))
        }
        if let service = ack.service {
            let place = service.place.map { ", \(Printable.clean($0, limit: 200))" } ?? ""
            let text =
                "\(Printable.clean(service.kind, limit: 40))\(place), \(Printable.clean(service.change, limit: 40))"
            report(.step("service", service.kind == "none" ? "none: a reboot ends the node" : text, nil))
        }
    }

    private func probe(_ shell: RemoteShell) async throws -> (InstallationPlan, String) {
        let agent = installation.agent
        let script = ProbeScript.text(
            bases: installation.bases,
            release: agent.release,
            interpreter: agent.interpreter,
            libraries: agent.libraries,
            libraryPaths: agent.libraryPaths
        )
        let facts = try await options.probe(shell, script).facts
        let plan: InstallationPlan
        do throws(InstallationPlan.Refusal) {
            plan = try InstallationPlan(facts, agent: agent)
        } catch {
            let hasOpenSSL = facts.surroundings.hasOpenSSL
            let way =
                hasOpenSSL
                ? "--agentless has the machine's own openssl make a key, for the software that is there"
                : "the machine has no openssl for --agentless either; --push-key sends it a key"
            throw HostError(.unfit, "\(options.name): \(error.message). Without an agent: \(way)")
        }
        if let service = installation.service.flatMap(ServiceKind.init), let lack = facts.lack(for: service) {
            throw HostError(
                .unfit,
                "\(options.name): --service \(service.rawValue): \(lack). Nothing was uploaded; --service auto takes the best that is there"
            )
        }
        let words = [
            "\(facts.operatingSystem) \(facts.architecture)", facts.surroundings.distribution, facts.libc,
            "user \(facts.user)", facts.surroundings.summary, "installs in \(plan.root)",
        ]
        return (plan, words.compactMap(\.self).joined(separator: ", "))
    }

    /// - Parameter present: The identity that the machine had before, and that was judged.
    private func install(
        _ plan: InstallationPlan,
        _ shell: RemoteShell,
        judged present: PresentIdentity?
    ) async throws -> String {
        let installer = AgentInstaller(shell: shell, plan: plan)
        let recovered = try await installer.lock() ? ", after an installation that was cut" : ""
        // Another enrolment may have ended between that look and the lock. From here on there is none.
        _ = try await shell.presentIdentity(
            in: "\(plan.statePath)/identity",
            judged: present,
            occupied: options.occupied
        )
        let agent = installation.agent
        let size = "\(agent.size / 1024) KiB, sha256 \(agent.sha256.prefix(12))"
        if plan.isInstalled {
            return "unchanged, \(size)\(recovered)"
        }
        let options = options
        try await installer.install(
            agent,
            warn: { options.warn($0) },
            progress: { options.report(.uploading($0, total: $1)) }
        )
        return "installed \(plan.agentPath), \(size)\(recovered)"
    }
}

extension Device {
    /// Where a device says that it can be reached.
    static func addresses(
        _ ack: SignalMessage.Acknowledgement,
        name: String
    ) throws(HostError) -> [Authority] {
        do throws(AddressError) {
            return try ack.hbone.map { text throws(AddressError) in try Authority(parsing: text) }
        } catch {
            throw HostError(.failed, "\(name): it names an address that is none: \(error)")
        }
    }
}
