package import MeshIdentity
import Platform
package import SSHSignal
import Streams

/// What is to be done on a device beside giving it an identity.
package struct EnrollmentOrder: Sendable {
    /// Of the identities; nil: that of the record, or `default`.
    package var namespace: String?
    package var node: SignalMessage.NodeRequest
    /// Whether nobody is to renew certificates over the mesh, `--renew-from none`; nil: as before.
    package var declinesRenewal: Bool?
    /// Ports and `host:port` that are allowed no more.
    package var deny: [String]?
    /// Directories to install below, best first; nil: where a device has it already, else the usual ones.
    package var bases: [String]?
    package var agent: AgentBinary
    /// What keeps the node running: a ``SSHSignal/ServiceKind``, or `auto`.
    /// nil leaves what is there.
    package var service: String?
    /// Where the key is made when there is to be no agent; nil: as before, or on the device by an agent.
    package var keyOrigin: Device.KeyOrigin?
    /// Says of an agent how it is to be: one that is to be there, also where none was before.
    package var namesAgent = false
    /// Without an agent: where the credential goes; `{name}` stands for the device's name. nil: as before.
    package var credentialDirectory: String?
    /// Without an agent: run there after each new certificate. nil: as before; empty: nothing.
    package var after: String?
    /// Which command it is, and what it does beside enrolling, for the ledger's events.
    package var command = "enroll"
    package var event: String?

    package init(
        namespace: String?,
        node: SignalMessage.NodeRequest,
        bases: [String]? = nil,
        agent: AgentBinary,
        service: String?,
        keyOrigin: Device.KeyOrigin? = nil,
        credentialDirectory: String? = nil,
        after: String? = nil
    ) {
        self.namespace = namespace
        self.node = node
        self.bases = bases
        self.agent = agent
        self.service = service
        self.keyOrigin = keyOrigin
        self.credentialDirectory = credentialDirectory
        self.after = after
    }
}

/// Who is told what an enrolment does. Called from any task.
package protocol EnrollmentReport: Sendable {
    /// For people.
    func line(_ text: String)
    func warning(_ text: String)
    func progress(_ progress: EnrollmentProgress, of device: String)
    func succeeded(_ record: Device)
    func failed(_ error: HostError, _ target: EnrollmentTarget)
}

/// Enrols many devices, some at a time: what `enroll` does once its command line is understood.
package struct EnrollmentRun: Sendable {
    private let order: EnrollmentOrder
    /// What is to be done with their sshd; nil: nothing.
    private let server: SSHServerRun?
    private let issuer: any CertificateIssuer
    /// The issuer's.
    private let trustDomain: TrustDomain
    private let terms: IssuanceTerms
    /// The SSH flags of the command line, and who answers what a login asks.
    private let logins: LoginOptions
    private let records: DeviceDirectory
    private let report: any EnrollmentReport
    /// For what is revoked on the way; nil where somebody else's CA signs, who has lists of his own.
    package var publisher: RevocationPublisher?
    package var admission = EnrollmentAdmission()
    /// Leaves out what is enrolled already and needs nothing.
    package var resumes = false
    /// Which name has shown which host key in this run.
    private let shown = Lock<[String: EnrollmentTarget]>([:])

    package init(
        _ order: EnrollmentOrder,
        server: SSHServerRun?,
        issuer: any CertificateIssuer,
        trustDomain: TrustDomain,
        terms: IssuanceTerms,
        logins: LoginOptions,
        records: DeviceDirectory,
        report: any EnrollmentReport
    ) {
        self.order = order
        self.server = server
        self.issuer = issuer
        self.trustDomain = trustDomain
        self.terms = terms
        self.logins = logins
        self.records = records
        self.report = report
    }

    /// - Parameter parallel: How many devices at a time.
    /// - Returns: How many were begun, and those of them that were not enrolled. Why was reported.
    package func callAsFunction(
        _ targets: [EnrollmentTarget],
        parallel: Int
    ) async throws(HostError) -> (begun: Int, failures: [EnrollmentFailure]) {
        if order.keyOrigin == nil { describeAgent() }
        var begun = targets
        if resumes {
            begun = []
            for target in targets where try !isDone(target) { begun.append(target) }
        }
        if begun.count < targets.count {
            let count = counted(targets.count - begun.count, "device is", plural: "devices are")
            report.line("\(count) enrolled already, and left alone")
        }
        let outcomes = await HostRun(width: parallel)(begun) { (target, loop) async throws(HostError) in
            await enroll(target, on: loop)
        }
        .compactMap(\.value)
        let replaced = outcomes.compactMap(\.replaced)
        if !replaced.isEmpty {
            let news = RevocationNews(
                parallel: parallel,
                records: records,
                publisher: publisher,
                prompts: logins.prompts,
                report: HostReport(
                    say: { [report] in report.line($0) },
                    warn: { [report] in report.warning($0) },
                    complain: { [report] in report.warning($0) }
                )
            )
            await news(of: replaced)
        }
        return (begun.count, outcomes.compactMap(\.failure))
    }

    /// Whether the ledger says that there is nothing to do: the same machine with the same agent, and a certificate
    /// that is not due.
    private func isDone(_ target: EnrollmentTarget) throws(HostError) -> Bool {
        guard let known = try record(of: target), known.revokedAt == nil, known.destination == target.text else {
            return false
        }
        let keyOrigin = order.keyOrigin(for: known)
        return (keyOrigin ?? .device) == (known.keyOrigin ?? .device)
            && (keyOrigin != nil || known.agent.sha256 == order.agent.sha256)
            && known.renewal.wait(at: WallClock.system.seconds) > 0
            && (!terms.attests || known.attestation?.serial == known.serial)
            && (server?.isDone(known.sshServer) ?? true)
    }

    private func describeAgent() {
        let agent = order.agent
        report.line(
            "agent \(agent.path), \(agent.size / 1024) KiB, needs "
                + (agent.interpreter.map { "\($0), glibc \(agent.glibcVersion ?? "?")" }
                    ?? "nothing but Linux \(agent.architecture)")
        )
    }

    private struct Outcome: Sendable {
        var failure: EnrollmentFailure?
        /// The name of a device whose earlier certificates were revoked.
        var replaced: String?
    }

    /// A connection that is lost on the way is made again: every step can be taken twice, and finds what the last
    /// attempt has left.
    private func reconnecting<Outcome>(
        _ target: EnrollmentTarget,
        _ enroll: () async throws(HostError) -> Outcome
    ) async throws(HostError) -> Outcome {
        let attempts = 3
        for attempt in 1...attempts {
            do throws(HostError) {
                return try await enroll()
            } catch {
                // A machine that is starting again is not there for a while.
                let mayComeBack = error.reason == .interrupted || (attempt > 1 && error.reason == .unreachable)
                guard mayComeBack else { throw error }
                report.warning("\(error.message); connecting again (\(attempt) of \(attempts))")
                try? await Task.sleep(for: .seconds(1 << (attempt - 1)))
            }
        }
        return try await enroll()
    }

    /// What happened was reported.
    private func enroll(_ target: EnrollmentTarget, on loop: EventLoop) async -> Outcome {
        var replaced: String?
        do throws(HostError) {
            let (known, found) = try claim(of: target)
            var claim = found
            claim.limit = CertificateLimit.byHand
            claim.reinstates = admission.reinstates
            var options = try options(for: target, known: known)
            let recording = RecordingIssuer(issuer, ledger: records.ledger, command: order.command, claim: claim)
            MachineAdmission(
                target: target,
                id: options.id,
                known: known,
                admission: admission,
                records: records,
                recording: recording,
                shown: shown,
                warn: { [report] in report.warning($0) }
            ).judge(&options)
            if let publisher {
                options.learn = { [report] lists in
                    publisher.learn(lists, from: target.name) { report.warning($0) }
                }
            }
            let outcome = try await reconnecting(target) { () throws(HostError) in
                try await enroll(target, options, recording, on: loop)
            }
            var record = outcome.record
            record.labels = target.labels ?? known?.labels
            if !record.isAgentless { record.declinesRenewal = order.declinesRenewal ?? known?.declinesRenewal }
            let event = order.event ?? record.enrolmentEvent
            // What the host key has signed once is evidence still, for the certificate that it names.
            if !terms.attests, record.attestation == nil, known?.hostKey == record.hostKey {
                record.attestation = known?.attestation
            }
            var change: String?
            if case .replaces(let text) = admission.decide(known, destination: target.text, hostKey: record.hostKey) {
                change = text
            }
            var reason: String?
            do throws(DeviceDirectoryError) {
                record = try records.save(
                    record,
                    on: recording.claim,
                    by: order.command,
                    event,
                    revokingEarlier: { isAlarmed in
                        // Somebody else has, or had, a key of it: what it had before goes.
                        reason = change ?? (isAlarmed ? "a certificate that it had replaced was used elsewhere" : nil)
                        return reason
                    }
                )
            } catch {
                throw HostError(.failed, "\(target.name) is enrolled, but not recorded: \(error.message)")
            }
            if let reason {
                replaced = target.name
                report.warning("\(target.name): earlier certificates are revoked: \(reason)")
            }
            if let server { record = try await setUp(server, record, target, on: loop) }
            report.succeeded(record)
            if let failure = outcome.afterFailure {
                throw HostError(.failed, "\(target.name) is enrolled, but \(failure)")
            }
            return Outcome(replaced: replaced)
        } catch {
            report.failed(error, target)
            return Outcome(failure: EnrollmentFailure(name: target.name, error: error), replaced: replaced)
        }
    }

    /// Once the device is enrolled and recorded: what becomes of its sshd changes nothing of that.
    private func setUp(
        _ server: SSHServerRun,
        _ record: Device,
        _ target: EnrollmentTarget,
        on loop: EventLoop
    ) async throws(HostError) -> Device {
        do throws(HostError) {
            try records.requireWritable("its sshd was not changed")
            let changed = try await server(
                record,
                try login(to: target),
                on: loop,
                report: { report.progress($0, of: target.name) },
                say: { report.line($0) }
            )
            try records.save(changed, ssh: changed.sshServer, by: "enroll")
            return changed
        } catch {
            throw HostError(error.reason, "\(target.name) is enrolled, but: \(error.message)")
        }
    }

    /// - Returns: also how a command failed that was to be run there.
    private func enroll(
        _ target: EnrollmentTarget,
        _ options: EnrollmentOptions,
        _ issuer: RecordingIssuer,
        on loop: EventLoop
    ) async throws(HostError) -> (record: Device, afterFailure: String?) {
        let (login, arguments) = (try login(to: target), target.arguments(logins.arguments).withAbsolutePaths)
        let known = try record(of: target)
        guard let keyOrigin = order.keyOrigin(for: known) else {
            var node = order.node.bound(as: known)
            if let ports = target.allowPorts { node.allowPorts = ports }
            node.deny = order.deny
            if order.declinesRenewal ?? known?.declinesRenewal == true { node.offersRenewal = nil }
            // A device stays where it is: a second installation would leave the first one running.
            var bases = order.bases
            if bases == nil { bases = known?.base.map { [$0] } }
            let enrollment = DeviceEnrollment(
                options,
                .init(
                    node: node,
                    agent: order.agent,
                    bases: bases ?? DeviceEnrollment.Installation.defaultBases,
                    service: order.service
                ),
                issuer: issuer
            )
            return (try await enrollment.run(login, destination: target.text, arguments: arguments, on: loop), nil)
        }
        let placement = AgentlessEnrollment.Placement(
            keyOrigin: keyOrigin,
            directory: order.credentialDirectory.map { NameTemplate.expand($0, for: target.name) }
                ?? known.flatMap { $0.isAgentless ? $0.agent.state : nil },
            after: (order.after ?? known?.after).flatMap { $0.isEmpty ? nil : $0 }
        )
        let enrollment = AgentlessEnrollment(options, placement, issuer: issuer)
        let outcome = try await enrollment.run(login, destination: target.text, arguments: arguments, on: loop)
        return (outcome.record, outcome.afterFailure)
    }

    private func claim(of target: EnrollmentTarget) throws(HostError) -> (Device?, DeviceClaim) {
        do throws(DeviceDirectoryError) {
            return try records.claim(target.name)
        } catch {
            throw HostError(.failed, error.message)
        }
    }

    private func record(of target: EnrollmentTarget) throws(HostError) -> Device? {
        do throws(DeviceDirectoryError) {
            return try records.record(named: target.name)
        } catch {
            throw HostError(.failed, error.message)
        }
    }

    private func options(
        for target: EnrollmentTarget,
        known: Device?
    ) throws(HostError) -> EnrollmentOptions {
        let id: SPIFFEID
        do throws(SPIFFEIDError) {
            id = try SPIFFEID(
                trustDomain: trustDomain,
                namespace: target.namespace ?? order.namespace ?? known?.identity.namespace ?? "default",
                name: target.name
            )
        } catch {
            throw HostError(.usage, "\(target.name): \(error.message); choose another --name or --namespace")
        }
        if let reservation = id.reservation {
            throw HostError(.usage, "\(target.name): \(reservation); choose another --name or --namespace")
        }
        var terms = terms
        terms.lifetime = terms.lifetime ?? known?.lifetime.map { .seconds($0) }
        var options = EnrollmentOptions(name: target.name, id: id, terms: terms) { [report] in
            report.progress($0, of: target.name)
        }
        options.former = known.flatMap(FormerPlace.init)
        return options
    }

    private func login(to target: EnrollmentTarget) throws(HostError) -> SSHLogin {
        let arguments = target.arguments(logins.arguments)
        // What was recorded before is warned of only, as ssh does.
        if arguments != target.recorded {
            for file in arguments.identityFiles where !"%$".contains(file.first ?? "%") {
                guard let why = SSHClientConfiguration.inaccessibility(of: file) else { continue }
                throw HostError(
                    .usage,
                    "\(target.name): the key \(file): \(why). It would be recorded for every later login: name the private key, "
                        + "or the public half of one that an agent has; without -i the keys of ~/.ssh are tried"
                )
            }
        }
        do throws(SSHConfigurationError) {
            var prompts = logins.prompts
            prompts.warn = { [report] in report.warning("\(target.name): \($0)") }
            var login = try SSHLogin(
                to: target.destination,
                arguments: arguments,
                prompts: prompts
            )
            if target.recorded == nil {
                login.suggestion = { [logins] in logins.suggest(target.destination.host) }
            }
            return login
        } catch {
            throw HostError(.usage, "\(error)")
        }
    }
}

/// A device that was not enrolled, and why.
package struct EnrollmentFailure: Sendable {
    package var name: String
    package var error: HostError
}

extension SSHArguments {
    /// For a record that is used from anywhere. What begins with `~`, `%` or `$` is expanded then.
    var withAbsolutePaths: SSHArguments {
        func absolute(_ path: String) -> String { "~%$".contains(path.first ?? "~") ? path : absolutePath(path) }
        var result = self
        result.identityFiles = identityFiles.map(absolute)
        result.configurationFile = configurationFile.map { $0.lowercased() == "none" ? $0 : absolute($0) }
        return result
    }
}

extension Device {
    /// For the ledger's events.
    fileprivate var enrolmentEvent: String {
        attestation.map { "enrolled, its request signed by the host key \($0.fingerprint ?? "?")" } ?? "enrolled"
    }
}
