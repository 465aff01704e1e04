/// Flags as ssh takes them: a value may be attached to its letter (`-p2222`, `-oPort=2222`).
enum SSHFlags {
    /// Those of ssh(1) that have values and that we have, too.
    private static let letters: Set<Character> = ["L", "R", "D", "W", "i", "J", "p", "o", "F", "S", "O", "E"]

    /// Each letter and its value apart, up to `--`.
    static func parted(_ arguments: some Collection<String>) -> [String] {
        var parted: [String] = []
        var isOver = false
        for argument in arguments {
            isOver = isOver || argument == "--"
            if !isOver, argument.count > 2, argument.hasPrefix("-"), letters.contains(argument.dropFirst().first ?? "-")
            {
                parted += [String(argument.prefix(2)), String(argument.dropFirst(2))]
            } else {
                parted.append(argument)
            }
        }
        return parted
    }
}
