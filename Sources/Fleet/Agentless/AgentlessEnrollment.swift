package import MeshIdentity
import Platform
package import SSHSignal
package import Streams

/// Gives a machine an identity where no agent fits: its own OpenSSL makes the key, and the certificate lands in files
/// with Istio's names, for the Envoy, nginx or HAProxy that is there. Enrolling again renews.
package struct AgentlessEnrollment: Sendable {
    /// What is put on the machine.
    package struct Placement: Sendable {
        /// ``Device/KeyOrigin/openssl``, or ``Device/KeyOrigin/pushed``: the key is made here and sent.
        package var keyOrigin: Device.KeyOrigin
        /// Absolute; nil is `/etc/bootstrap/identity` for root, else `.bootstrap/identity` in the home directory.
        package var directory: String?
        /// A shell command that is run there once the files are in place.
        package var after: String?

        package init(keyOrigin: Device.KeyOrigin = .openssl, directory: String? = nil, after: String? = nil) {
            self.keyOrigin = keyOrigin
            self.directory = directory
            self.after = after
        }
    }

    package struct Outcome: Sendable {
        package var record: Device
        /// The certificate is in place, and ``Placement/after`` failed: how.
        package var afterFailure: String?
    }

    private let options: EnrollmentOptions
    private let placement: Placement
    private let issuer: any CertificateIssuer

    package init(_ options: EnrollmentOptions, _ placement: Placement, issuer: any CertificateIssuer) {
        self.options = options
        self.placement = placement
        self.issuer = issuer
    }

    /// Logs in and enrols, or renews.
    ///
    /// - Parameters:
    ///   - login: How to reach the device and who to be there.
    ///   - destination: as the user wrote it, for the record.
    ///   - arguments: the SSH flags of the command line, for the record.
    ///   - loop: where the SSH session lives.
    package func run(
        _ login: SSHLogin,
        destination: String,
        arguments: SSHArguments,
        on loop: EventLoop
    ) async throws(HostError) -> Outcome {
        let (visit, hostKey) = try await options.visit(login, on: loop) { channel, former, attest in
            try await enroll(over: channel, former: former, attest: attest)
        }
        var record = Device(
            name: options.name,
            destination: destination,
            ssh: .init(arguments),
            hostKey: hostKey,
            identity: options.id,
            hbone: [],
            agent: .init(path: "", state: visit.directory, sha256: ""),
            notAfter: visit.leaf.notAfter,
            enrolledAt: options.clock.seconds,
            serial: visit.leaf.serialNumber,
            lifetime: options.terms.span,
            roots: visit.issued.roots.map(\.fingerprint)
        )
        record.keyOrigin = placement.keyOrigin
        record.after = placement.after
        record.attestation = visit.attestation
        return Outcome(record: record, afterFailure: visit.afterFailure)
    }

    struct Visit: Sendable {
        var directory: String
        var issued: IssuedCertificate
        var leaf: Certificate
        var attestation: HostKeyAttestation?
        var afterFailure: String?
    }

    /// Everything after the login.
    ///
    /// - Parameters:
    ///   - former: Where this machine was installed before; refused where that is elsewhere and there still.
    ///   - attest: How its host key signs the request, where that is asked for.
    func enroll(
        over channel: any RemoteChannel,
        former: FormerPlace? = nil,
        attest: Certification.Attest? = nil
    ) async throws -> Visit {
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
    ) async throws -> Visit {
        let shell = RemoteShell(channel, name: options.name)
        let (directory, skew) = try await options.timed("probe") { try await probe(shell) }
        try await former?.check(against: directory, name: options.name, shell)
        let present = try await shell.presentIdentity(in: directory, occupied: options.occupied)
        _ = try await AgentInstaller(shell: shell, plan: InstallationPlan(root: directory)).lock()
        let setup = AgentlessScript.setup(directory: directory, version: AtomicFile.randomName())
        do {
            // Another enrolment may have ended between that look and the lock. From here on there is none.
            _ = try await shell.presentIdentity(
                in: directory,
                judged: present,
                occupied: options.occupied
            )
            let outcome = try await options.timed("key") { try await certify(shell, setup, skew, certification) }
            let issued = outcome.issued
            guard let leaf = issued.leaf else { throw failure("the issuer sent no certificate") }
            if let objection = certification.objection { throw objection }
            try await options.timed("identity") {
                let script = AgentlessScript.install(
                    chain: Self.pem(issued.chain),
                    roots: Self.pem(issued.roots)
                )
                try await install(setup + "\n" + script, shell, certification)
                return ((), "\(options.id) in \(directory), certificate until \(Timestamp.text(leaf.notAfter))")
            }
            try await unlock(shell, directory)
            let afterFailure = try await runAfter(shell, directory)
            return Visit(
                directory: directory,
                issued: issued,
                leaf: leaf,
                attestation: outcome.attestation,
                afterFailure: afterFailure
            )
        } catch {
            // What was there before is in use still; the key that was made for nothing goes.
            _ = try? await shell.run("\(setup)\nrm -rf \"$new\" \"$dir/.lock\"", step: "undo")
            throw error
        }
    }

    private func unlock(_ shell: RemoteShell, _ directory: String) async throws {
        _ = try await shell.run("rm -rf \(ShellScript.quote(directory + "/.lock"))", step: "unlock")
    }

    private static func pem(_ certificates: [Certificate]) -> String {
        String(decoding: certificates.flatMap(\.pem), as: UTF8.self)
    }

    private func failure(_ text: String) -> SignalError { SignalError(.credential, "\(options.name): \(text)") }

    /// What the machine says of it decides whether the certificate counts.
    private func install(_ script: String, _ shell: RemoteShell, _ certification: Certification) async throws {
        let output = try await shell.run(script, step: "install")
        do throws(SignalError) {
            try check(output, "install")
        } catch {
            if let failure = certification.delivery(.refused(Printable.clean(error.message, limit: 200))) {
                options.warn("what became of its certificate is not recorded: \(failure.message)")
            }
            throw error
        }
    }

    private func probe(_ shell: RemoteShell) async throws -> ((directory: String, skew: ClockSkew), String) {
        let script = ProbeScript.text(bases: [], release: "", interpreter: nil, libraries: [], libraryPaths: [])
        let (facts, skew) = try await options.probe(shell, script)
        if let warning = skew.warning { options.warn(warning) }
        guard placement.keyOrigin == .pushed || facts.surroundings.hasOpenSSL else {
            throw HostError(
                .unfit,
                """
                \(options.name): the machine has no openssl to make a key with. Nothing was changed; --push-key has the key made here and \
                sent there, if that is acceptable
                """
            )
        }
        let directory =
            placement.directory
            ?? (facts.userID == 0 ? "/etc/bootstrap/identity" : "\(facts.home)/.bootstrap/identity")
        guard directory.hasPrefix("/"), !directory.contains("?"), !leadsUp(directory) else {
            throw failure(
                "'\(Printable.clean(directory, limit: 120))' is no absolute path; give one with --credential-dir"
            )
        }
        let output = try await shell.run(AgentlessScript.check(directory: directory), step: "directory")
        guard output.status == 0 else {
            let reason = output.values["error"] ?? "it ended with status \(output.status)"
            throw HostError(
                .unfit,
                "\(options.name): \(directory): \(Printable.clean(reason, limit: 400)). Nothing was changed; --credential-dir names another, in "
                    + "which, and above which, only root can write"
            )
        }
        let words = [
            "\(facts.operatingSystem) \(facts.architecture)", facts.surroundings.distribution, facts.libc,
            "user \(facts.user)", facts.surroundings.summary, "no agent",
        ]
        return ((directory, skew), words.compactMap(\.self).joined(separator: ", "))
    }

    private func certify(
        _ shell: RemoteShell,
        _ setup: String,
        _ skew: ClockSkew,
        _ certification: Certification
    ) async throws -> (Certification.Outcome, String) {
        if placement.keyOrigin == .pushed { return try await push(shell, setup, skew, certification) }
        let output = try await step("key", setup + "\n" + AgentlessScript.request(id: options.id.description), shell)
        let lines = output.lines.filter { $0.hasPrefix("csr:") }.map { $0.dropFirst(4) + "\n" }
        let request = try CertificateRequest(pem: Array(lines.joined().utf8))
        // The machine's word. What it asks for decides nothing, and asking for something else is no honest mistake.
        let wish: SPIFFEID?
        do throws(SVIDError) {
            wish = try request.requestedID()
        } catch {
            throw failure("its certificate request: \(error.message)")
        }
        guard wish == options.id else {
            let asked = wish.map { Printable.clean($0.description, limit: 300) } ?? "no identity"
            throw failure("the device asks for \(asked) instead of \(options.id)")
        }
        try request.verify()
        return (
            try await certification(request, skew, clock: options.clock),
            "made by the device's openssl, never leaves it"
        )
    }

    private func push(
        _ shell: RemoteShell,
        _ setup: String,
        _ skew: ClockSkew,
        _ certification: Certification
    ) async throws -> (Certification.Outcome, String) {
        options.warn(
            """
            ITS PRIVATE KEY IS MADE HERE AND SENT OVER SSH (--push-key). Whoever can read this machine's memory, or the session, has it, \
            too; a device with openssl makes its own
            """
        )
        let key = try PrivateKey.generate()
        let request = try CertificateRequest.create(key: key, id: options.id)
        let outcome = try await certification(request, skew, clock: options.clock)
        let bytes = try key.pem()
        let output = try await shell.run(
            setup + "\n" + AgentlessScript.receiveKey(length: bytes.count),
            sending: OneChunk(bytes: bytes),
            step: "key",
            progress: { _ in }
        )
        try check(output, "key")
        return (outcome, "PUSHED: made here, sent over SSH")
    }

    private struct OneChunk: UploadSequence {
        var bytes: [UInt8]?

        mutating func next() -> [UInt8]? {
            defer { bytes = nil }
            return bytes
        }
    }

    private func runAfter(_ shell: RemoteShell, _ directory: String) async throws -> String? {
        guard let after = placement.after else { return nil }
        let start = ContinuousClock.now
        let script = AgentlessScript.after(after, directory: directory)
        let output = try await shell.run(script, step: "after", timeout: .seconds(60))
        let said = Printable.clean(output.lines.suffix(5).joined(separator: " "), limit: 400)
        if output.status == 0 {
            options.report(.step("after", said.isEmpty ? "done" : said, .now - start))
            return nil
        }
        return "the command of --after ended with status \(output.status)\(said.isEmpty ? "" : ": \(said)")"
    }

    @discardableResult
    private func step(_ name: String, _ script: String, _ shell: RemoteShell) async throws -> RemoteShell.Output {
        let output = try await shell.run(script, step: name)
        try check(output, name)
        return output
    }

    private func check(_ output: RemoteShell.Output, _ step: String) throws(SignalError) {
        guard output.status != 0 else { return }
        let reason = output.values["error"] ?? output.lines.suffix(3).joined(separator: " ")
        let text = reason.isEmpty ? "it ended with status \(output.status)" : Printable.clean(reason, limit: 400)
        throw SignalError(.refused, "\(options.name): \(step): \(text)")
    }
}

extension AgentlessEnrollment {
    /// To renew what a record says: the same identity, directory and command.
    package init(
        renewing record: Device,
        issuer: RecordingIssuer,
        terms: IssuanceTerms,
        report: @escaping @Sendable (EnrollmentProgress) -> Void
    ) {
        var options = EnrollmentOptions(name: record.name, id: record.identity, terms: terms, report: report)
        options.refusal = { key in
            let verdict = EnrollmentAdmission().decide(
                record,
                destination: record.destination,
                hostKey: .init(key)
            )
            if case .refused(let error) = verdict { return error }
            return nil
        }
        let placement = Placement(
            keyOrigin: record.keyOrigin ?? .openssl,
            directory: record.agent.state,
            after: record.after
        )
        self.init(options, placement, issuer: issuer)
    }

    /// - Returns: the record, as it is now.
    package func renew(
        _ record: Device,
        _ login: SSHLogin,
        on loop: EventLoop
    ) async throws(HostError) -> Outcome {
        var outcome = try await run(
            login,
            destination: record.destination,
            arguments: record.ssh.arguments,
            on: loop
        )
        outcome.record.ssh = record.ssh
        outcome.record.labels = record.labels
        outcome.record.sshServer = record.sshServer
        outcome.record.attestation = record.attestation
        outcome.record.renewedAt = outcome.record.enrolledAt
        outcome.record.enrolledAt = record.enrolledAt
        return outcome
    }
}
