import Agent
import ArgumentParser
import Platform

struct SuperviseCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "supervise",
        abstract: "Keep a device's node running; the service that `enroll` installs runs this.",
        discussion: """
            Starts `bootstrap node`, starts it again when it ends, and replaces it by another release without a connection \
            being refused. SIGTERM ends both. Nobody needs to run it by hand.
            """,
        shouldDisplay: false
    )

    @Option(help: ArgumentHelp("Where credential, configuration and log of the node are.", valueName: "DIR"))
    var state: String

    func run() throws {
        let state = absolutePath(state)
        guard let program = Supervisor.program(state: state) ?? Executable.path else {
            throw fail("the path of this program is not known (/proc is needed)")
        }
        do throws(Supervisor.Failure) {
            let file = LogFile.ofThisProcess()
            let log = { (line: String) in
                if let file { file.append("supervise: \(line)") } else { printError("supervise: \(line)") }
            }
            try Supervisor(state: state, program: program, log: log).run()
        } catch {
            throw fail("\(error)")
        }
    }
}
