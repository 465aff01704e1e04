import ArgumentParser
import Fleet
import MeshIdentity
import SSHSignal
import Streams
import Synchronization

struct DoctorCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor",
        abstract: "Check every precondition, and say how to fix what fails.",
        discussion: """
            Without DEST: what this machine needs. With DEST: also the way there, step by step, as `enroll` and `connect` would go it: \
            configuration, host key, login, shell, whether the agent fits, the clock, forwarding, the certificate, and the native path with \
            a real handshake. Nothing is changed there. Warnings cost something and stop nothing; the exit code is that of the first failure.

              bootstrap doctor root@dev7
            """
    )

    @Argument(help: ArgumentHelp("A device's name, or [user@]host[:port].", valueName: "DEST"), completion: .devices)
    var destination: String?

    @Option(help: ArgumentHelp("The program that would be uploaded.", valueName: "PATH"))
    var agentBinary: String?

    @Option(help: ArgumentHelp("text, or json: one object a check on stdout.", valueName: "FORMAT"))
    var output = ResultFormat.text

    @OptionGroup var ssh: SSHOptionGroup
    @OptionGroup var authority: CAAccess

    func run() async throws {
        let report = DoctorReport(output)
        let agent = Result { () throws(AgentBinaryError) in
            try AgentBinary.find(agentBinary, executable: Executable.path, cache: Home.cache)
        }
        let local = LocalChecks(home: Home.path, authority: authority.location.path, agent: agent)
        for finding in local.run() { report.add(finding) }
        if let destination { try await check(destination, agent: try? agent.get(), report) }
        if let code = report.end() { throw code }
    }

    private func check(_ destination: String, agent: AgentBinary?, _ report: DoctorReport) async throws {
        let device: Device?
        do throws(HostError) {
            device = try DeviceDirectory(Home.devices).enrolledIfAny(destination)
        } catch {
            throw fail(error)
        }
        let logins = try ssh.logins()
        let loop = EventLoop(name: "doctor")
        let checks = DeviceChecks(
            destination,
            device: device,
            logins: logins,
            agent: agent,
            records: DeviceDirectory(Home.devices),
            trust: OperatorTrust(records: DeviceDirectory(Home.devices), authority: authority.location.path),
            context: { [authority] in
                let identity = try OperatorIdentity(
                    for: $0,
                    by: authority.loadLive(),
                    records: DeviceDirectory(Home.devices)
                )
                return try identity.context(identity.issue())
            },
            report: { report.add($0) }
        )
        await checks.run(on: loop)
        await loop.shutDown()
    }
}

/// Prints findings as they come, and remembers what the command ends with.
private final class DoctorReport: Sendable {
    private struct State {
        var failures = 0
        var warnings = 0
        var code: ExitCode?
    }

    private let format: ResultFormat
    private let state = Mutex(State())

    init(_ format: ResultFormat) { self.format = format }

    func add(_ finding: Finding) {
        state.withLock { state in
            if finding.verdict == .warning { state.warnings += 1 }
            if finding.verdict == .failure {
                state.failures += 1
                if state.code == nil { state.code = finding.reason?.exitCode }
            }
        }
        switch format {
        case .json: printJSON(finding)
        case .text:
            guard Verbosity.current >= .normal || finding.verdict == .failure else { return }
            func padded(_ text: String, _ width: Int) -> String {
                text + String(repeating: " ", count: max(1, width - text.count))
            }
            let verdict = padded(finding.verdict.rawValue, 9)
            let colour: String? =
                switch finding.verdict {
                case .failure: Colour.failed
                case .warning: Colour.warning
                default: nil
                }
            printLine(verdict + padded(finding.check, 13) + finding.detail, colour, of: verdict.count)
            if let fix = finding.fix { printLine(padded("", 9) + padded("", 13) + "→ \(fix)") }
        }
    }

    /// - Returns: The code of the first failure.
    func end() -> ExitCode? {
        let (failures, warnings, code) = state.withLock { ($0.failures, $0.warnings, $0.code) }
        if format == .text {
            printDone(
                failures + warnings == 0
                    ? "everything is as it should be"
                    : "\(failures) failed, \(warnings) \(warnings == 1 ? "warning" : "warnings")"
            )
        }
        return code
    }
}
