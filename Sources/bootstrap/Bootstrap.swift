import ArgumentParser

@main
struct Bootstrap: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bootstrap",
        abstract:
            "Turns an SSH login into a mesh identity, and the identity into the fastest stream between two machines.",
        subcommands: [CACommand.self, ConnectCommand.self, ExplainCommand.self, NodeCommand.self]
    )
}
