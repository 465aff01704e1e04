import ArgumentParser
import Glibc
import H2Transport
import MeshIdentity
import Platform
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
            CaptureCommand.self,
            ConnectCommand.self,
            CopyCommand.self,
            DenyCommand.self,
            DoctorCommand.self,
            EnrollCommand.self,
            ExecCommand.self,
            ExplainCommand.self,
            MeshCommand.self,
            NodeCommand.self,
            RelayCommand.self,
            RenewCommand.self,
            RevokeCommand.self,
            SignalCommand.self,
            StatusCommand.self,
            SuperviseCommand.self,
            TraceCommand.self,
            UnenrollCommand.self,
        ]
    )
}

extension Bootstrap {
    /// As the argument parser does it, but a command line that makes no sense ends with 2, as everywhere, and not with
    /// 64; and errors look like all others.
    static func main() async {
        openStandardDescriptors()
        Background.takeOver()
        ServiceNotification.takeOver()
        OpenSSLLifetime.untilTheProcessIsGone()
        if let reason = missingDescriptors() { exit(withError: fail(reason)) }
        ProcessMemory.isNotDumped()
        if let script = completionScript(CommandLine.arguments) { return printLine(script) }
        do {
            var command = try parseAsRoot(SSHFlags.parted(CommandLine.arguments.dropFirst()))
            if var asynchronous = command as? any AsyncParsableCommand {
                try await asynchronous.run()
            } else {
                try command.run()
            }
            if isInterrupted { exit(withError: ExitCode.interrupted) }
            try checkOutput()
        } catch  where exitCode(for: error) == .success {
            // What --help and --version have to say.
            let text = fullMessage(for: error)
            if !text.isEmpty { print(text) }
            // Not in `configuration`, which every command makes.
            if text == AgentRelease.version { print(AESGCM.ofThisProcess.description) }
            do { try checkOutput() } catch { exit(withError: error) }
            exit()
        } catch {
            if isInterrupted { exit(withError: ExitCode.interrupted) }
            // What `fail` throws was said.
            guard !(error is ExitCode) else { exit(withError: error) }
            let isUsage = exitCode(for: error) == .validationFailure
            printError(CommandSuggestion.text(for: fullMessage(for: error), CommandLine.arguments))
            exit(withError: isUsage ? ExitCode.usage : ExitCode.failed)
        }
    }

    /// The command ends because somebody did not answer its question, but pressed Ctrl-C.
    private static var isInterrupted: Bool {
        let wasAsking = TerminalPrompt.abandon()
        return wasAsking || PromptSignals.wereInterrupted
    }

    private static func checkOutput() throws {
        guard let number = standardOutputFailure() else { return }
        throw fail("standard output cannot be written: \(String(cString: strerror(number)))")
    }

    /// bash completes file names where we know nothing better; nil where no script for bash is asked for.
    private static func completionScript(_ arguments: [String]) -> String? {
        let flag = "--generate-completion-script"
        guard arguments.count > 1, arguments[1] == "\(flag)=bash" || arguments.dropFirst().prefix(2) == [flag, "bash"]
        else { return nil }
        return completionScript(for: .bash).split(separator: "\n", omittingEmptySubsequences: false).map { line in
            line.hasPrefix("complete ") ? "complete -o default" + line.dropFirst("complete".count) : String(line)
        }.joined(separator: "\n")
    }
}
