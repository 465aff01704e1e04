import ArgumentParser
import MeshIdentity
import SSHSignal

@main
struct Bootstrap: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bootstrap",
        abstract:
            "Turns an SSH login into a mesh identity, and the identity into the fastest stream between two machines.",
        version: AgentRelease.version,
        subcommands: [
            AllowCommand.self,
            CACommand.self,
            ConnectCommand.self,
            CopyCommand.self,
            DenyCommand.self,
            DoctorCommand.self,
            EnrollCommand.self,
            ExecCommand.self,
            ExplainCommand.self,
            NodeCommand.self,
            RelayCommand.self,
            RenewCommand.self,
            RevokeCommand.self,
            SignalCommand.self,
            StatusCommand.self,
            SuperviseCommand.self,
            UnenrollCommand.self,
        ]
    )
}

extension Bootstrap {
    /// As the argument parser does it, but a command line that makes no sense ends with 2, as everywhere, and not with
    /// 64.
    static func main() async {
        OpenSSLLifetime.untilTheProcessIsGone()
        do {
            var command = try parseAsRoot()
            if var asynchronous = command as? any AsyncParsableCommand {
                try await asynchronous.run()
            } else {
                try command.run()
            }
        } catch {
            guard exitCode(for: error) == .validationFailure else { exit(withError: error) }
            printError(fullMessage(for: error))
            exit(withError: ExitCode.usage)
        }
    }
}
