import Agent
import ArgumentParser
import Glibc
import Platform
import SSHSignal

struct SignalCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "signal",
        abstract: "The far end of an enrolment; `enroll` starts it over SSH.",
        discussion: """
            Speaks the signaling protocol (docs/protocol.md) on stdin and stdout. Makes this machine's key, which never \
            leaves it, stores the certificate that the operator sends, writes the node's configuration and starts \
            `bootstrap node`. Nobody needs to run it by hand.
            """,
        shouldDisplay: false
    )

    @Option(
        help: ArgumentHelp(
            "Where credential, configuration, log and process number of the node are. (default: "
                + "$BOOTSTRAP_HOME/device, or ~/.bootstrap/device)",
            valueName: "DIR"
        )
    )
    var state: String?

    func run() throws {
        // An operator that is gone is a failed write, not the end of an installation that is under way.
        signal(SIGPIPE, SIG_IGN)
        signal(SIGHUP, SIG_IGN)
        guard let executable = Executable.path else {
            throw fail("the path of this program is not known (/proc is needed)")
        }
        let service = EnrollmentService(
            state: absolutePath(state ?? "\(Home.path)/device"),
            executable: executable,
            connection: getenv("SSH_CONNECTION").map { String(cString: $0) }
        )
        do throws(SignalError) {
            try service.run()
        } catch {
            // What the operator said it knows; it is not repeated in its own log.
            if error.isFromPeer { throw ExitCode.failed }
            throw fail(error.message)
        }
    }
}
