import ArgumentParser
import MeshIdentity
import Platform
import SSHSignal
import Streams

/// Enrols many devices, some at a time: what `enroll` does once its command line is understood.
struct EnrollmentRun: Sendable {
    /// Of the identities.
    var namespace: String
    var node: SignalMessage.NodeRequest
    /// Directories to install below, best first.
    var bases: [String]
    var agent: AgentBinary
    var device: DeviceOptions
    /// What is to be done with their sshd; nil: nothing.
    var server: SSHServerRun?
    var issuer: any CertificateIssuer
    /// The issuer's.
    var trustDomain: TrustDomain
    /// For what is revoked on the way; nil where somebody else's CA signs, who has lists of his own.
    var publisher: RevocationPublisher?
    var issuance: IssuanceOptions
    /// A device's clock may be far off: `--skew-ok`.
    var acceptsSkew = false
    /// The SSH flags of the command line.
    var arguments: SSHArguments
    /// Who answers what a login asks.
    var prompts: SSHLogin.Prompts
    var records: DeviceDirectory
    var admission = EnrollmentAdmission()
    /// Leaves out what is enrolled already and needs nothing.
    var resumes = false
    var report: EnrollmentOutput

    /// - Parameter parallel: How many devices at a time.
    /// - Throws: the exit code, when a device was not enrolled. Why was reported.
    func callAsFunction(_ targets: [EnrollmentTarget], parallel: Int) async throws {
        if device.keyOrigin == nil { describeAgent() }
        let begun = try resumes ? targets.filter { try !isDone($0) } : targets
        if begun.count < targets.count {
            report.line("\(targets.count - begun.count) devices are enrolled already, and left alone")
        }
        guard !begun.isEmpty else { return }
        let loops = EventLoopGroup(count: min(begun.count, parallel, Executable.processors))
        let (failures, replaced) = await withTaskGroup(of: Outcome.self) { group in
            var (failures, replaced): ([EnrollmentFailure], [String]) = ([], [])
            var waiting = begun[...]
            func startNext() {
                guard let target = waiting.popFirst() else { return }
                group.addTask { await enroll(target, on: loops.next()) }
            }
            for _ in 0..<parallel { startNext() }
            while let outcome = await group.next() {
                if let failure = outcome.failure { failures.append(failure) }
                if let name = outcome.replaced { replaced.append(name) }
                startNext()
            }
            return (failures, replaced)
        }
        await loops.shutDown()
        if !replaced.isEmpty { await publish(replaced, parallel: parallel) }
        report.summary(failures, of: begun.count)
        guard let first = failures.first?.error.reason else { return }
        // One kind of failure has its own exit code; a mixture is just a failure.
        throw failures.allSatisfy { $0.error.reason == first } ? first.exitCode : ExitCode.failed
    }

    /// Whether the ledger says that there is nothing to do: the same machine with the same agent, and a certificate that is not due.
    private func isDone(_ target: EnrollmentTarget) throws -> Bool {
        let known: DeviceRecord?
        do throws(EnrollmentError) {
            known = try record(of: target)
        } catch {
            throw fail(error.message)
        }
        guard let known, known.revokedAt == nil, known.destination == target.text else { return false }
        return (device.keyOrigin ?? .device) == (known.keyOrigin ?? .device)
            && (device.keyOrigin != nil || known.agent.sha256 == agent.sha256)
            && known.renewal.wait(at: currentTime()) > 0
            && (device.attest == nil || known.attestation?.serial == known.serial)
            && (server?.isDone(known.sshServer) ?? true)
    }

    private func describeAgent() {
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

    /// Has everybody know what was revoked. The devices are enrolled: what goes wrong here is said, and fails nothing.
    private func publish(_ names: [String], parallel: Int) async {
        let mend = "`bootstrap revoke`, without a name, tells them; so does their next renewal"
        guard let publisher else {
            return report.warning(
                "earlier certificates of \(names.joined(separator: ", ")) are to be revoked at the CA that has signed them, too"
            )
        }
        let delivery = RevocationDelivery(
            parallel: parallel,
            records: records,
            login: { [prompts] (device) throws(EnrollmentError) in try device.login(prompts: prompts) },
            say: { [report] in report.line($0) },
            warn: { [report] in report.warning($0) },
            complain: { [report] in report.warning("not told what was revoked: \($0)") }
        )
        do {
            let lists = try publisher.publish()
            report.line("wrote \(publisher.path)")
            if let outcome = try await delivery(lists) {
                report.warning("\(outcome.failed) devices do not know yet what was revoked: \(mend)")
            }
        } catch {
            report.warning("the others do not know yet what was revoked: \(error): \(mend)")
        }
    }

    /// A connection that is lost on the way is made again: every step can be taken twice, and finds what the last attempt has left.
    private func reconnecting<Outcome>(
        _ target: EnrollmentTarget,
        _ enroll: () async throws(EnrollmentError) -> Outcome
    ) async throws(EnrollmentError) -> Outcome {
        let attempts = 3
        for attempt in 1...attempts {
            do throws(EnrollmentError) {
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
        do throws(EnrollmentError) {
            let known = try record(of: target)
            let (admission, destination) = (admission, target.text)
            var options = try options(for: target)
            options.refusal = { key in
                let verdict = admission.decide(known, destination: destination, hostKey: .init(key))
                if case .refused(let error) = verdict { return error }
                return nil
            }
            let recording = RecordingIssuer(issuer, ledger: records.ledger, command: "enroll", device: target.name)
            let outcome = try await reconnecting(target) { () throws(EnrollmentError) in
                try await enroll(target, options, recording, on: loop)
            }
            var record = outcome.record
            record.labels = target.labels
            if known?.hostKey == record.hostKey { record.sshServer = known?.sshServer }
            var reason: String?
            if case .replaces(let change) = admission.decide(known, destination: destination, hostKey: record.hostKey) {
                reason = change
            }
            do throws(DeviceDirectoryError) {
                try records.save(record, by: "enroll", record.enrolmentEvent, revokingEarlier: reason)
            } catch {
                throw EnrollmentError(.failed, "\(target.name) is enrolled, but not recorded: \(error.message)")
            }
            if let reason {
                replaced = target.name
                report.warning("\(target.name): earlier certificates are revoked: \(reason)")
            }
            if let server { record = try await setUp(server, record, target, on: loop) }
            report.succeeded(record)
            if let failure = outcome.afterFailure {
                throw EnrollmentError(.failed, "\(target.name) is enrolled, but \(failure)")
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
        _ record: DeviceRecord,
        _ target: EnrollmentTarget,
        on loop: EventLoop
    ) async throws(EnrollmentError) -> DeviceRecord {
        do throws(EnrollmentError) {
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
            throw EnrollmentError(error.reason, "\(target.name) is enrolled, but: \(error.message)")
        }
    }

    /// - Returns: also how a command failed that was to be run there.
    private func enroll(
        _ target: EnrollmentTarget,
        _ options: DeviceEnrollment.Options,
        _ issuer: any CertificateIssuer,
        on loop: EventLoop
    ) async throws(EnrollmentError) -> (record: DeviceRecord, afterFailure: String?) {
        let (login, arguments) = (try login(to: target), target.arguments(arguments).withAbsolutePaths)
        guard let keyOrigin = device.keyOrigin else {
            let enrollment = DeviceEnrollment(options, issuer: issuer) { report.progress($0, of: target.name) }
            return (try await enrollment.run(login, destination: target.text, arguments: arguments, on: loop), nil)
        }
        var agentless = AgentlessEnrollment.Options(
            name: target.name,
            id: options.id,
            issuance: issuance,
            keyOrigin: keyOrigin,
            directory: device.credentialDir.map { FileTransfer.expand($0, for: target.name) },
            after: device.after
        )
        agentless.acceptsSkew = acceptsSkew
        agentless.refusal = options.refusal
        agentless.attests = options.attests
        let enrollment = AgentlessEnrollment(agentless, issuer: issuer) { report.progress($0, of: target.name) }
        let outcome = try await enrollment.run(login, destination: target.text, arguments: arguments, on: loop)
        return (outcome.record, outcome.afterFailure)
    }

    private func record(of target: EnrollmentTarget) throws(EnrollmentError) -> DeviceRecord? {
        do throws(DeviceDirectoryError) {
            return try records.record(named: target.name)
        } catch {
            throw EnrollmentError(.failed, error.message)
        }
    }

    private func options(for target: EnrollmentTarget) throws(EnrollmentError) -> DeviceEnrollment.Options {
        let id: SPIFFEID
        do throws(SPIFFEIDError) {
            id = try SPIFFEID(
                trustDomain: trustDomain,
                namespace: target.namespace ?? namespace,
                name: target.name
            )
        } catch {
            throw EnrollmentError(.usage, "\(target.name): \(error.message); choose another --name or --namespace")
        }
        var node = node
        if let ports = target.allowPorts { node.allowPorts = ports }
        var options = DeviceEnrollment.Options(
            name: target.name,
            id: id,
            node: node,
            agent: agent,
            bases: bases,
            issuance: issuance
        )
        options.service = device.service
        options.attests = device.attest != nil
        options.acceptsSkew = acceptsSkew
        return options
    }

    private func login(to target: EnrollmentTarget) throws(EnrollmentError) -> SSHLogin {
        do throws(SSHConfigurationError) {
            var prompts = prompts
            prompts.warn = { report.warning("\(target.name): \($0)") }
            // While somebody is asked, nothing is drawn over the question.
            if let ask = prompts.hostKey {
                prompts.hostKey = { question in await report.asking { await ask(question) } }
            }
            if let ask = prompts.passphrase {
                prompts.passphrase = { request in await report.asking { await ask(request) } }
            }
            return try SSHLogin(to: target.destination, arguments: target.arguments(arguments), prompts: prompts)
        } catch {
            throw EnrollmentError(.usage, "\(error)")
        }
    }
}

/// A device that was not enrolled, and why.
struct EnrollmentFailure: Sendable {
    var name: String
    var error: EnrollmentError
}

extension EnrollmentError.Reason {
    var exitCode: ExitCode {
        switch self {
        case .usage: .usage
        case .hostKeyRefused: .hostKeyRefused
        case .authenticationRefused: .authenticationRefused
        case .unreachable: .unreachable
        case .denied: .denied
        case .unfit, .interrupted, .failed: .failed
        }
    }
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

extension DeviceRecord {
    /// For the ledger's events.
    fileprivate var enrolmentEvent: String {
        attestation.map { "enrolled, its request signed by the host key \($0.fingerprint ?? "?")" } ?? "enrolled"
    }
}
