import ArgumentParser
import Platform

/// What is printed for a command line that makes no sense: in the style of all errors, and with the command that was
/// probably meant.
enum CommandSuggestion {
    static func text(for message: String, _ arguments: [String]) -> String {
        if let text = unknownCommand(arguments) { return text }
        return message.hasPrefix("Error: ") ? "error: \(message.dropFirst("Error: ".count))" : message
    }

    /// nil where the first words are commands.
    private static func unknownCommand(_ arguments: [String]) -> String? {
        var words = arguments.dropFirst().prefix { !$0.hasPrefix("-") }
        var command: any ParsableCommand.Type = Bootstrap.self
        var path = "bootstrap"
        while let word = words.popFirst() {
            let known = names(below: command)
            // From here on, what stands there is for the command.
            guard !known.isEmpty, word != "help" else { return nil }
            if let next = known.first(where: { $0.name == word }) {
                command = next.command
                path += " \(word)"
                continue
            }
            let names = known.filter(\.isShown).map(\.name)
            let guess =
                Spelling.nearest(to: word, among: names).map { "; did you mean '\($0)'?" }
                ?? ": " + names.joined(separator: ", ")
            return "error: '\(word)' is no command of \(path)\(guess)\nSee '\(path) --help'."
        }
        return nil
    }

    private struct Subcommand {
        var name: String
        var isShown: Bool
        var command: any ParsableCommand.Type
    }

    private static func names(below command: any ParsableCommand.Type) -> [Subcommand] {
        var found: [Subcommand] = []
        for subcommand in command.configuration.subcommands {
            let configuration = subcommand.configuration
            guard let name = configuration.commandName else { continue }
            found.append(Subcommand(name: name, isShown: configuration.shouldDisplay, command: subcommand))
        }
        return found
    }
}
