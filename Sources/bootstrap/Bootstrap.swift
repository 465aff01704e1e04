import ArgumentParser
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
