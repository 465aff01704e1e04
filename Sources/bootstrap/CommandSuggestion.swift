import ArgumentParser

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
            var guess = ": " + names.joined(separator: ", ")
            var nearest = max(1, word.count / 3) + 1
            for name in names where distance(word, name) < nearest {
                nearest = distance(word, name)
                guess = "; did you mean '\(name)'?"
            }
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

    /// How many letters are to be added, removed, changed or swapped (optimal string alignment).
    static func distance(_ one: String, _ other: String) -> Int {
        let (a, b) = (Array(one), Array(other))
        var table = Array(repeating: Array(repeating: 0, count: b.count + 1), count: a.count + 1)
        for i in 0...a.count { table[i][0] = i }
        for j in 0...b.count { table[0][j] = j }
        for i in a.indices {
            for j in b.indices {
                var best = min(table[i][j + 1] + 1, table[i + 1][j] + 1, table[i][j] + (a[i] == b[j] ? 0 : 1))
                if i > 0, j > 0, a[i] == b[j - 1], a[i - 1] == b[j] { best = min(best, table[i - 1][j - 1] + 1) }
                table[i + 1][j + 1] = best
            }
        }
        return table[a.count][b.count]
    }
}
