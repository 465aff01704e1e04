import ArgumentParser
import Glibc
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
            CACommand.self,
            ConnectCommand.self,
            CopyCommand.self,
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
        openStandardDescriptors()
        OpenSSLLifetime.untilTheProcessIsGone()
        do {
            var command = try parseAsRoot()
            if var asynchronous = command as? any AsyncParsableCommand {
                try await asynchronous.run()
            } else {
                try command.run()
            }
            try checkOutput()
        } catch  where exitCode(for: error) == .success {
            // What --help and --version have to say.
            let text = fullMessage(for: error)
            if !text.isEmpty { print(text) }
            do { try checkOutput() } catch { exit(withError: error) }
            exit()
        } catch {
            guard exitCode(for: error) == .validationFailure else { exit(withError: error) }
            printError(fullMessage(for: error))
            exit(withError: ExitCode.usage)
        }
    }

    private static func checkOutput() throws {
        guard let number = standardOutputFailure() else { return }
        throw fail("standard output cannot be written: \(String(cString: strerror(number)))")
    }
}
