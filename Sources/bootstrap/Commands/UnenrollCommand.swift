import ArgumentParser
import Fleet
import MeshIdentity
import Platform
import SSHSignal
import Streams

struct UnenrollCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "unenroll",
        abstract: "Take machines out of the mesh: remove service, node, credential and agent.",
        discussion: """
            Logs in as `ssh` would and removes what `enroll` put there, with nothing but a shell: the agent may be broken or gone. Prints \
            what was removed. The device's record goes, too; its certificates stay in the ledger. It can be run again at any time.
            """
    )

    @Argument(
        help: ArgumentHelp("A device's name, destination or SPIFFE ID, or [user@]host[:port].", valueName: "DEST"),
        completion: .devices
    )
    var destinations: [String]

    @Flag(help: "Leave the agent there, ready for another enrolment; service, node and credential go.")
    var keepAgent = false

    @Flag(help: "Open no connection, and only forget the record: for a machine that is gone.")
    var forget = false

    @Option(
        help: ArgumentHelp(
            "It was installed below this directory. (default: as recorded, or /opt, ~/.local/share and ~)",
            valueName: "DIR"
        )
    )
    var base: String?

    @OptionGroup var ssh: SSHOptionGroup

    func validate() throws {
        guard !destinations.isEmpty else { throw ValidationError("name at least one device") }
        if let base, !base.hasPrefix("/"), base != "~", !base.hasPrefix("~/") {
            throw ValidationError("--base is absolute, or begins with ~/")
        }
    }

    func run() async throws {
        let logins = try ssh.logins()
        let outcomes = await HostRun(width: 1)(destinations) { (destination, loop) async throws(HostError) in
            do throws(HostError) {
                try await unenroll(destination, logins, on: loop)
            } catch {
                printError("error: \(error.message)")
                throw error
            }
        }
        _ = await DirectoryPublication.publish(DeviceDirectory(Home.devices), nil, .standard)
        if let failures = HostFailures(outcomes.compactMap(\.error?.reason)) { throw failures.reason.exitCode }
    }

    private func unenroll(_ destination: String, _ logins: LoginOptions, on loop: EventLoop) async throws(HostError) {
        let records = DeviceDirectory(Home.devices)
        do {
            let record = try records.enrolledIfAny(destination)
            let name = record?.name ?? destination
            if !forget {
                if record != nil { try records.requireWritable("\(name): nothing was removed") }
                var removal = DeviceRemoval(name: name, bases: bases(record), keepsAgent: keepAgent)
                if let record, record.agent.path.isEmpty { removal.credentialDirectory = record.agent.state }
                removal.otherBases = DeviceEnrollment.Installation.defaultBases
                let kept = record.flatMap(installationElsewhere)
                removal.sshServer = kept == nil ? record?.sshServer : nil
                let outcome: DeviceRemoval.Outcome
                let login = try login(record, destination, logins)
                do throws(HostError) {
                    outcome = try await removal.run(login, on: loop)
                } catch {
                    throw record.map { Self.remedied(error, $0) } ?? Self.unknown(error, name)
                }
                for text in outcome.removed { printDone("\(name)  removed  \(text)") }
                for text in outcome.left { printWarning("\(name): left \(text)") }
                for base in outcome.others {
                    printWarning(
                        "\(name): another installation is in \(base)/bootstrap, and stays: bootstrap unenroll "
                            + "\(record?.destination ?? destination) --base \(ShellScript.quote(base)) removes it, too"
                    )
                }
                if let failure = outcome.sshServerFailure {
                    throw HostError(
                        failure.reason,
                        "\(failure.message); it stays recorded, so that unenroll can be run again (--forget gives it up)"
                    )
                }
                if let kept {
                    let rest = "it is installed in \(kept), and stays recorded: without --base that is removed"
                    guard !outcome.removed.isEmpty else {
                        throw HostError(.usage, "\(name): nothing of ours is in \(base ?? ""); \(rest)")
                    }
                    return printDone("\(name)  \(rest)")
                }
                if outcome.removed.isEmpty { printDone("\(name)  nothing of ours is there") }
            }
            try forget(record, name: name, in: records)
        } catch let error as HostError {
            throw error
        } catch let error as SSHConfigurationError {
            throw HostError(.usage, "\(error)")
        } catch {
            throw HostError(.failed, "\(destination): \(error)")
        }
    }

    /// Nothing is recorded by that name, and it is no host that answers.
    private static func unknown(_ error: HostError, _ name: String) -> HostError {
        guard error.reason == .unreachable else { return error }
        return HostError(
            error.reason,
            "\(error.message). '\(name)' is not enrolled (any more); `bootstrap status` lists what is. A machine that has something "
                + "of ours and no record is named as [user@]host[:port]"
        )
    }

    /// With what can be done about a machine that nobody reaches any more.
    private static func remedied(_ error: HostError, _ record: Device) -> HostError {
        guard error.reason == .unreachable else { return error }
        let isValid = record.revokedAt == nil && record.notAfter > WallClock.system.seconds
        let cut =
            isValid
            ? ", and others take its certificate until \(describe(time: record.notAfter)): bootstrap revoke \(record.name) ends that before"
            : ""
        return HostError(
            error.reason,
            """
            \(error.message). Nothing was changed. If the machine is gone for good, bootstrap unenroll \(record.name) --forget takes its \
            record away without a connection. What is on the device stays there: service, node, credential and agent\(cut)
            """
        )
    }

    private func forget(_ record: Device?, name: String, in records: DeviceDirectory) throws {
        guard let record else {
            // The name was given, or it was to be called as its host.
            let names = [name, (try? EnrollmentTarget(name))?.name ?? name]
            let isEnded = try names.contains { try records.ledger.endEnrolment(named: $0, by: "unenroll") }
            let valid = try names.compactMap { try Self.validity($0, in: records.ledger) }.first.map { "; \($0)" } ?? ""
            let why = (isEnded ? " yet; its enrolment, which was under way or was cut, gets nothing more" : "") + valid
            let guess = isEnded ? nil : records.suggestion(for: name)
            return printDone("\(name)  was not recorded\(why)\(guess.map { "; did you mean '\($0)'?" } ?? "")")
        }
        let wasRevoked = try records.remove(named: record.name, ifStill: record)
        let rest =
            wasRevoked
            ? "its machine stays revoked until `bootstrap enroll --reinstate` trusts it again"
            : try Self.validity(record.name, in: records.ledger)
                ?? "its certificate ends \(describe(time: record.notAfter))"
        printDone("\(name)  is no longer recorded; \(rest)")
    }

    /// Which certificates of a name are accepted still, and what ends that; nil: none that the ledger knows.
    private static func validity(_ name: String, in ledger: Ledger) throws -> String? {
        let now = WallClock.system.seconds
        let valid = try ledger.certificates(of: name).filter { $0.state != .revoked && $0.notAfter > now }
        guard let last = valid.map(\.notAfter).max() else { return nil }
        let serials = valid.map(\.serial).joined(separator: ", ")
        return "\(valid.count == 1 ? "its certificate" : "its certificates"), serial \(serials), "
            + "\(valid.count == 1 ? "ends" : "end by") \(describe(time: last)); bootstrap revoke \(name) ends that before"
    }

    /// What is recorded, where `--base` names another place: that one may be removed, and this is no reason to forget
    /// where the device is installed. nil: it is the same, as far as is known.
    private func installationElsewhere(_ record: Device) -> String? {
        guard let base, base.hasPrefix("/"), !record.agent.path.isEmpty, let recorded = record.base else { return nil }
        func directory(_ base: String) -> String {
            var name = base
            while name.last == "/" { name.removeLast() }
            return name + "/bootstrap"
        }
        return directory(base) == directory(recorded) ? nil : directory(recorded)
    }

    private func bases(_ record: Device?) -> [String] {
        if let base { return [base] }
        return record?.base.map { [$0] } ?? DeviceEnrollment.Installation.defaultBases
    }

    private func login(
        _ record: Device?,
        _ destination: String,
        _ logins: LoginOptions
    ) throws(SSHConfigurationError) -> SSHLogin {
        try logins.login(
            to: try Destination(parsing: record?.destination ?? destination),
            recorded: record?.ssh.arguments,
            warn: logins.prompts.warn
        )
    }
}
