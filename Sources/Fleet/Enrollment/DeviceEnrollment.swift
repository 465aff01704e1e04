package import MeshIdentity
package import Platform
package import SSHSignal
package import Streams

/// Turns an SSH login into a mesh identity: probe, agent, key on the device, certificate, node.
///
/// Over one SSH session and one exec channel: a shell that is fed scripts and the agent's bytes, and is then replaced
/// by `bootstrap signal`. What is there already is left alone, so that a second run renews the certificate and changes
/// nothing else, and a run after one that was cut goes on where that one ended.
package struct DeviceEnrollment: Sendable {
    package struct Options: Sendable {
        /// What the device is called, by its record and in messages.
        package var name: String
        package var id: SPIFFEID
        package var node: SignalMessage.NodeRequest
        package var agent: AgentBinary
        /// Directories to install below, best first; `~/` is the home directory there.
        package var bases: [String]
        package var terms: IssuanceTerms
        /// A ``ServiceKind``, `auto` for the best the device has; nil leaves what is there.
        package var service: String?
        /// This machine's clock, milliseconds since 1970.
        package var clock: WallClock
        /// Asked once the machine has proven its host key, before anything is changed there: why it must not be
        /// enrolled, or nil.
        package var refusal: @Sendable (HostKey) -> HostError? = { _ in nil }
        /// Asked with the identity that the machine has already, where it has another one: why that must stay, or nil.
        package var occupied: @Sendable (SPIFFEID) -> HostError? = { _ in nil }
        /// Told which revocation lists the machine has, before it gets others.
        package var learn: (@Sendable ([UInt8]) -> Void)?
        /// Why the enrolment must not go on, which others may decide at any time; nil where it may.
        package var objection: @Sendable () -> SignalError? = { nil }

        /// As root for the whole machine, else for the user.
        package static let defaultBases = ["/opt", "~/.local/share", "~"]

        package init(
            name: String,
            id: SPIFFEID,
            node: SignalMessage.NodeRequest = .init(),
            agent: AgentBinary,
            bases: [String] = Options.defaultBases,
            terms: IssuanceTerms = IssuanceTerms(),
            clock: WallClock = .system
        ) {
            self.name = name
            self.id = id
            self.node = node
            self.agent = agent
            self.bases = bases
            self.terms = terms
            self.clock = clock
        }
    }

    private let options: Options
    private let issuer: any CertificateIssuer
    private let report: @Sendable (EnrollmentProgress) -> Void

    package init(
        _ options: Options,
        issuer: any CertificateIssuer,
        report: @escaping @Sendable (EnrollmentProgress) -> Void
    ) {
        self.options = options
        self.issuer = issuer
        self.report = report
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
        let start = ContinuousClock.now
        return try await login.visit(options.name, on: loop) { client in
            report(.step("connect", "\(client.serverVersion), host key \(client.hostKey)", .now - start))
            if let refusal = options.refusal(client.hostKey) { throw refusal }
            let channel = try await SSHProcessChannel(client, command: RemoteShell.command)
            let attesting = HostKeyAttesting(name: options.name, client: client, report: report)
            let (plan, outcome) = try await enroll(over: channel) { [options] request in
                try await attesting(request, options.id.trustDomain)
            }
            let (ack, certificate) = (outcome.ack, outcome.certificate)
            var record = Device(
                name: options.name,
                destination: destination,
                ssh: .init(arguments),
                hostKey: .init(client.hostKey),
                identity: options.id,
                hbone: try Device.addresses(ack, name: options.name),
                agent: .init(path: plan.agentPath, state: plan.statePath, sha256: options.agent.sha256),
                notAfter: certificate.notAfter,
                enrolledAt: options.clock.seconds,
                serial: try? Certificate.all(pem: Array(certificate.chain.utf8)).first?.serialNumber,
                lifetime: options.terms.span,
                roots: try? Certificate.all(pem: Array(certificate.roots.utf8)).map(\.fingerprint)
            )
            record.attestation = outcome.attestation
            return record
        }
    }

    /// Everything after the login, over a channel on which a shell was started.
    ///
    /// - Parameter attest: How its host key signs the request, where that is asked for.
    func enroll(
        over channel: any RemoteChannel,
        attest: Certification.Attest? = nil
    ) async throws -> (InstallationPlan, EnrollmentConversation.Certified) {
        defer { channel.close() }
        let shell = RemoteShell(channel, name: options.name)
        let plan = try await timed("probe") { try await probe(shell) }
        let credential = "\(plan.statePath)/identity"
        let present = try await shell.presentIdentity(in: credential, of: options.id, occupied: options.occupied)
        let warn: @Sendable (String) -> Void = { [report, name = options.name] in report(.warning("\(name): \($0)")) }
        if let learn = options.learn, let lists = try await shell.revocationLists(in: credential, warn: warn) {
            learn(lists)
        }
        for warning in plan.warnings { report(.warning("\(options.name): \(warning)")) }
        try await timed("agent") { ((), try await install(plan, shell, judged: present)) }
        let start = ContinuousClock.now
        try await AgentInstaller(shell: shell, plan: plan).startSignaling()
        let conversation = EnrollmentConversation(
            channel: channel,
            name: options.name,
            certification: Certification(
                name: options.name,
                id: options.id,
                issuer: issuer,
                terms: options.terms,
                attest: options.terms.attests ? attest : nil
            ),
            clock: options.clock,
            objection: options.objection,
            warn: warn
        )
        let purpose = EnrollmentOperator.Purpose.enroll(
            .init(id: options.id.description, node: options.node, service: options.service)
        )
        let outcome = try await conversation.certify(purpose)
        let (ack, certificate) = (outcome.ack, outcome.certificate)
        let elapsed = ContinuousClock.now - start
        report(.step("identity", "\(ack.id), certificate until \(Timestamp.text(certificate.notAfter))", elapsed))
        let unchanged = ack.unchanged.map { Printable.clean($0, limit: 40) }
        let remark = unchanged.isEmpty ? "" : " (unchanged: \(unchanged.joined(separator: ", ")))"
        report(.step("node", "\(Printable.clean(ack.node, limit: 40)), listens on \(ack.listener)\(remark)", nil))
        if let service = ack.service {
            let place = service.place.map { ", \(Printable.clean($0, limit: 200))" } ?? ""
            let text =
                "\(Printable.clean(service.kind, limit: 40))\(place), \(Printable.clean(service.change, limit: 40))"
            report(.step("service", service.kind == "none" ? "none: a reboot ends the node" : text, nil))
        }
        // The device's words: so many, and so long.
        for warning in (ack.warnings ?? []).prefix(8) {
            report(.warning("\(options.name): \(Printable.clean(warning, limit: 600))"))
        }
        return (plan, outcome)
    }

    private func timed<Result>(_ step: String, _ body: () async throws -> (Result, String)) async throws -> Result {
        let start = ContinuousClock.now
        let (result, text) = try await body()
        report(.step(step, text, .now - start))
        return result
    }

    private func probe(_ shell: RemoteShell) async throws -> (InstallationPlan, String) {
        let agent = options.agent
        let script = ProbeScript.text(
            bases: options.bases,
            release: agent.release,
            interpreter: agent.interpreter,
            libraries: agent.libraries,
            libraryPaths: agent.libraryPaths
        )
        let asked = options.clock.milliseconds
        let facts = try DeviceFacts(try await shell.run(script, step: "probe"), name: options.name)
        // Found before anything is uploaded; the agent's hello says it once more, and more exactly.
        try facts.skew(asked: asked, answered: options.clock.milliseconds)
            .check(options.terms, name: options.name)
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
        judged present: SPIFFEID?
    ) async throws -> String {
        let installer = AgentInstaller(shell: shell, plan: plan)
        let recovered = try await installer.lock() ? ", after an installation that was cut" : ""
        // Another enrolment may have ended between that look and the lock. From here on there is none.
        _ = try await shell.presentIdentity(
            in: "\(plan.statePath)/identity",
            of: options.id,
            judged: present,
            occupied: options.occupied
        )
        let agent = options.agent
        let size = "\(agent.size / 1024) KiB, sha256 \(agent.sha256.prefix(12))"
        if plan.isInstalled {
            return "unchanged, \(size)\(recovered)"
        }
        try await installer.install(agent) { [report] in report(.uploading($0, total: $1)) }
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
