import ArgumentParser
import MeshIdentity
import SSHSignal
import Streams

struct EnrollCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "enroll",
        abstract: "Turn SSH logins into mesh identities.",
        discussion: """
            Logs in as `ssh` would, finds out what the machine is, uploads this program, has it make a key (which never \
            leaves the machine) and a certificate request, signs that with the CA, and starts a node there. Nothing is \
            changed on a machine that does not fit. Run it again at any time: what is there already stays, the certificate is \
            renewed, and what a cut connection left half done is finished.

              bootstrap ca init --trust-domain mesh.example
              bootstrap enroll root@dev7 --allow-port 8080
              bootstrap connect dev7 -L 8080:localhost:8080

            An inventory has one destination a line, with a name behind it where the host's is not wanted:

              root@10.0.0.7:2222 dev7
            """
    )

    @Argument(help: ArgumentHelp("[user@]host[:port], or a Host alias of ssh_config.", valueName: "DEST"))
    var destinations: [String] = []

    @Option(help: ArgumentHelp("The namespace of the identities.", valueName: "NS"))
    var namespace = "default"

    @Option(help: ArgumentHelp("The device's name. (default: its host)", valueName: "NAME"))
    var name: String?

    @Option(help: ArgumentHelp("A file with more destinations.", valueName: "FILE"))
    var inventory: String?

    @Option(help: ArgumentHelp("How many devices at a time.", valueName: "N"))
    var parallel = 16

    @Option(help: ArgumentHelp("The port of the device's HBONE listener.", valueName: "PORT"))
    var hbonePort: UInt16 = 15008

    @Option(help: ArgumentHelp("The address that listener binds.", valueName: "ADDRESS"))
    var hboneAddress = "0.0.0.0"

    @Option(
        help: ArgumentHelp(
            "A port on the device that others of its namespace may reach. May be repeated.",
            valueName: "PORT"
        )
    )
    var allowPort: [UInt16] = []

    @Option(
        help: ArgumentHelp(
            "The program to upload. (default: the static build beside this one, or this one)",
            valueName: "PATH"
        )
    )
    var agentBinary: String?

    @Option(
        help: ArgumentHelp(
            "Install below this directory. (default: the first usable of /opt, ~/.local/share, ~)",
            valueName: "DIR"
        )
    )
    var base: String?

    @OptionGroup var issuance: IssuanceArguments
    @OptionGroup var access: CAAccess
    @OptionGroup var ssh: SSHOptionGroup

    @Option(help: ArgumentHelp("text, or json: one object a device on stdout.", valueName: "FORMAT"))
    var output = EnrollmentOutput.Format.text

    func validate() throws {
        guard !destinations.isEmpty || inventory != nil else {
            throw ValidationError("name at least one destination, or an --inventory file")
        }
        guard (1...256).contains(parallel) else { throw ValidationError("--parallel is from 1 to 256") }
        if let base, !base.hasPrefix("/"), base != "~", !base.hasPrefix("~/") {
            throw ValidationError("--base is absolute, or begins with ~/")
        }
    }

    func run() async throws {
        let devices = try targets()
        let issuer = try access.load()
        let agent: AgentBinary
        do throws(AgentBinaryError) {
            agent = try AgentBinary(path: try agentPath())
        } catch {
            throw fail(error.message, .usage)
        }
        let records = DeviceDirectory(Home.devices)
        let report = EnrollmentOutput(format: output, names: devices.map(\.name))
        report.line(
            "agent \(agent.path), \(agent.size / 1024) KiB, needs "
                + (agent.interpreter.map { "\($0), glibc \(agent.glibcVersion ?? "?")" }
                    ?? "nothing but Linux \(agent.architecture)")
        )
        let arguments = ssh.arguments
        let loops = EventLoopGroup(count: min(devices.count, parallel, Executable.processors))
        let failures = await withTaskGroup(of: EnrollmentError.Reason?.self) { group in
            var failures: [EnrollmentError.Reason] = []
            var waiting = devices[...]
            func startNext() {
                guard let device = waiting.popFirst() else { return }
                group.addTask {
                    await enroll(device, issuer, agent, arguments, records, report, on: loops.next())
                }
            }
            for _ in 0..<parallel { startNext() }
            while let failure = await group.next() {
                if let failure { failures.append(failure) }
                startNext()
            }
            return failures
        }
        await loops.shutDown()
        report.summary(failed: failures.count, of: devices.count)
        guard let first = failures.first else { return }
        // One kind of failure has its own exit code; a mixture is just a failure.
        throw failures.allSatisfy { $0 == first } ? first.exitCode : ExitCode.failed
    }

    private func enroll(
        _ device: EnrollmentTarget,
        _ issuer: EmbeddedCA,
        _ agent: AgentBinary,
        _ arguments: SSHArguments,
        _ records: DeviceDirectory,
        _ report: EnrollmentOutput,
        on loop: EventLoop
    ) async -> EnrollmentError.Reason? {
        do throws(EnrollmentError) {
            let id: SPIFFEID
            do throws(SPIFFEIDError) {
                id = try SPIFFEID(trustDomain: issuer.trustDomain, namespace: namespace, name: device.name)
            } catch {
                throw EnrollmentError(.usage, "\(device.name): \(error.message); choose another --name or --namespace")
            }
            let login: SSHLogin
            do throws(SSHConfigurationError) {
                var prompts = SSHLogin.Prompts.terminal()
                prompts.warn = { report.warning("\(device.name): \($0)") }
                login = try SSHLogin(to: device.destination, arguments: arguments, prompts: prompts)
            } catch {
                throw EnrollmentError(.usage, "\(error)")
            }
            var options = DeviceEnrollment.Options(
                name: device.name,
                id: id,
                node: .init(bind: hboneAddress, port: hbonePort, allowPorts: allowPort),
                agent: agent,
                issuance: issuance.options
            )
            if let base { options.bases = [base] }
            let enrollment = DeviceEnrollment(options, issuer: issuer) { report.progress($0, of: device.name) }
            let record = try await enrollment.run(
                login,
                destination: device.text,
                arguments: arguments.withAbsolutePaths,
                on: loop
            )
            do throws(DeviceDirectoryError) {
                try records.save(record)
            } catch {
                throw EnrollmentError(.failed, "\(device.name) is enrolled, but not recorded: \(error.message)")
            }
            report.succeeded(record, directory: records.path)
            return nil
        } catch {
            report.failed(error, device)
            return error.reason
        }
    }

    private func agentPath() throws(AgentBinaryError) -> String {
        if let agentBinary { return agentBinary }
        guard let executable = Executable.path else {
            throw AgentBinaryError(message: "the path of this program is not known; name it with --agent-binary")
        }
        return Executable.staticBuild(beside: executable) ?? executable
    }

    /// The destinations of the command line and of the inventory, each with its name.
    private func targets() throws -> [EnrollmentTarget] {
        var targets: [EnrollmentTarget] = []
        do throws(EnrollmentError) {
            targets = try destinations.map { text throws(EnrollmentError) in try EnrollmentTarget(text, name: name) }
            if let inventory { targets += try EnrollmentTarget.inventory(inventory) }
            if name != nil, targets.count > 1 {
                throw EnrollmentError(
                    .usage,
                    "--name is for one device; give names in an inventory, one a line: DEST NAME"
                )
            }
            var seen: [String: EnrollmentTarget] = [:]
            for target in targets {
                if let other = seen.updateValue(target, forKey: target.name) {
                    throw EnrollmentError(
                        .usage,
                        "'\(other.text)' and '\(target.text)' would both be '\(target.name)'; give them names in an inventory"
                    )
                }
            }
        } catch {
            throw fail(error.message, error.reason.exitCode)
        }
        return targets
    }
}

extension EnrollmentError.Reason {
    var exitCode: ExitCode {
        switch self {
        case .usage: .usage
        case .hostKeyRefused: .hostKeyRefused
        case .authenticationRefused: .authenticationRefused
        case .unreachable: .unreachable
        case .unfit, .failed: .failed
        }
    }
}

extension SSHArguments {
    /// For a record that is used from anywhere. What begins with `~`, `%` or `$` is expanded then.
    fileprivate var withAbsolutePaths: SSHArguments {
        func absolute(_ path: String) -> String { "~%$".contains(path.first ?? "~") ? path : absolutePath(path) }
        var result = self
        result.identityFiles = identityFiles.map(absolute)
        result.configurationFile = configurationFile.map { $0.lowercased() == "none" ? $0 : absolute($0) }
        return result
    }
}
