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
                var removal = DeviceRemoval(name: name, bases: bases(record), keepsAgent: keepAgent)
                if let record, record.agent.path.isEmpty { removal.credentialDirectory = record.agent.state }
                removal.otherBases = DeviceEnrollment.Installation.defaultBases
                removal.sshServer = record?.sshServer
                let outcome = try await removal.run(try login(record, destination, logins), on: loop)
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

    private func forget(_ record: Device?, name: String, in records: DeviceDirectory) throws {
        guard let record else {
            // The name was given, or it was to be called as its host.
            let names = [name, (try? EnrollmentTarget(name))?.name ?? name]
            let isEnded = try names.contains { try records.ledger.endEnrolment(named: $0, by: "unenroll") }
            let why = isEnded ? " yet; its enrolment, which was under way or was cut, gets nothing more" : ""
            let guess = isEnded ? nil : records.suggestion(for: name)
            return printDone("\(name)  was not recorded\(why)\(guess.map { "; did you mean '\($0)'?" } ?? "")")
        }
        let wasRevoked = try records.remove(named: record.name, ifStill: record)
        let rest =
            wasRevoked
            ? "its machine stays revoked until `bootstrap enroll --reinstate` trusts it again"
            : "its certificate ends \(describe(time: record.notAfter))"
        printDone("\(name)  is no longer recorded; \(rest)")
    }

    private func bases(_ record: Device?) -> [String] {
        if let base { return [base] }
        return record?.base.map { [$0] } ?? DeviceEnrollment.Installation.defaultBases
    }

    private func login(_ record: Device?, _ destination: String, _ logins: LoginOptions) throws -> SSHLogin {
        try logins.login(
            to: try Destination(parsing: record?.destination ?? destination),
            recorded: record?.ssh.arguments,
            warn: logins.prompts.warn
        )
    }
}
