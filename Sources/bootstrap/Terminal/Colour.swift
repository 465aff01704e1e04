import Glibc

/// Colour for what failed: on terminals that have it, unless `NO_COLOR` is set (https://no-color.org).
enum Colour {
    static let failed = "31"
    static let warning = "33"

    private static let isWanted: Bool = {
        if let value = getenv("NO_COLOR"), value.pointee != 0 { return false }
        return getenv("TERM").map { String(cString: $0) != "dumb" } ?? false
    }()
    private static let isOnOutput = isWanted && isatty(STDOUT_FILENO) == 1
    private static let isOnError = isWanted && isatty(STDERR_FILENO) == 1

    /// A word for stdout.
    static func output(_ text: String, _ colour: String) -> String {
        isOnOutput ? "\u{1B}[\(colour)m\(text)\u{1B}[0m" : text
    }

    /// A line for stderr, with the word that says what it is.
    static func marked(_ line: String) -> String {
        guard isOnError else { return line }
        for (word, colour) in [("error:", failed), ("warning:", warning)] {
            guard let range = place(of: word, in: line) else { continue }
            return line[..<range.lowerBound] + "\u{1B}[\(colour)m\(word)\u{1B}[0m" + line[range.upperBound...]
        }
        return line
    }

    /// At the beginning, or behind the name of a machine.
    private static func place(of word: String, in line: String) -> Range<String.Index>? {
        var start = line.startIndex
        if !line.hasPrefix(word) {
            guard let space = line.firstIndex(of: " "), let next = line[space...].firstIndex(where: { $0 != " " }),
                line.distance(from: space, to: next) >= 2
            else { return nil }
            start = next
        }
        guard line[start...].hasPrefix(word) else { return nil }
        return start..<line.index(start, offsetBy: word.count)
    }
}
