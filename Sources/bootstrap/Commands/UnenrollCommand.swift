import ArgumentParser
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
        help: ArgumentHelp("A device's name, destination or SPIFFE ID, or [user@]host[:port].", valueName: "DEST")
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
        let loops = EventLoopGroup(count: 1)
        var failures: [EnrollmentError.Reason] = []
        for destination in destinations {
            do throws(EnrollmentError) {
                try await unenroll(destination, on: loops.next())
            } catch {
                printError("error: \(error.message)")
                failures.append(error.reason)
            }
        }
        await loops.shutDown()
        guard let first = failures.first else { return }
        throw failures.allSatisfy { $0 == first } ? first.exitCode : ExitCode.failed
    }

    private func unenroll(_ destination: String, on loop: EventLoop) async throws(EnrollmentError) {
        let records = DeviceDirectory(Home.devices)
        do {
            let record = try records.device(for: destination)
            let name = record?.name ?? destination
            if !forget {
                var removal = DeviceRemoval(name: name, bases: bases(record), keepsAgent: keepAgent)
                if let record, record.agent.path.isEmpty { removal.credentialDirectory = record.agent.state }
                removal.sshServer = record?.sshServer
                let outcome = try await removal.run(try login(record, destination), on: loop)
                for text in outcome.removed { printLine("\(name)  removed  \(text)") }
                for text in outcome.left { printError("warning: \(name): left \(text)") }
                if let failure = outcome.sshServerFailure {
                    throw EnrollmentError(
                        failure.reason,
                        "\(failure.message); it stays recorded, so that unenroll can be run again (--forget gives it up)"
                    )
                }
                if outcome.removed.isEmpty { printLine("\(name)  nothing of ours is there") }
            }
            if let record {
                try records.remove(named: record.name)
                printLine("\(name)  is no longer recorded; its certificate ends \(describe(time: record.notAfter))")
            } else {
                printLine("\(name)  was not recorded")
            }
        } catch let error as EnrollmentError {
            throw error
        } catch let error as SSHConfigurationError {
            throw EnrollmentError(.usage, "\(error)")
        } catch {
            throw EnrollmentError(.failed, "\(destination): \(error)")
        }
    }

    private func bases(_ record: DeviceRecord?) -> [String] {
        if let base { return [base] }
        return record?.base.map { [$0] } ?? DeviceEnrollment.Options.defaultBases
    }

    private func login(_ record: DeviceRecord?, _ destination: String) throws -> SSHLogin {
        try SSHLogin(
            to: try Destination(parsing: record?.destination ?? destination),
            arguments: ssh.isEmpty ? record?.ssh.arguments ?? ssh.arguments : ssh.arguments,
            prompts: try ssh.prompts()
        )
    }
}
