/// One line of `ssh_config(5)`, split as `ssh` splits it.
struct ConfigurationLine: Hashable {
    /// As written; compared without case.
    var keyword: String
    var arguments: [String]

    /// nil for a blank line or a comment.
    ///
    /// The keyword ends at white space or one `=`. Arguments are separated by white space; `'…'` and `"…"` quote; a
    /// backslash escapes a quote, itself and, outside of quotes, a space; `#` at the start of an argument begins a
    /// comment.
    init?(parsing text: String) throws(SSHConfigurationError) {
        let trimmed = text.drop { Self.isSpace($0) }
        guard let first = trimmed.first, first != "#" else { return nil }
        let end = trimmed.firstIndex { Self.isSpace($0) || $0 == "=" } ?? trimmed.endIndex
        keyword = String(trimmed[..<end])
        if keyword.count > 1, keyword.hasPrefix("\""), keyword.hasSuffix("\"") {
            keyword = String(keyword.dropFirst().dropLast())
        }
        guard !keyword.isEmpty else { throw SSHConfigurationError("a line begins with '='") }
        var rest = trimmed[end...].drop { Self.isSpace($0) }
        if rest.first == "=" { rest = rest.dropFirst() }
        arguments = try Self.split(rest)
    }

    private static func isSpace(_ character: Character) -> Bool {
        character == " " || character == "\t" || character == "\r" || character == "\u{0C}"
    }

    private static func split(_ text: Substring) throws(SSHConfigurationError) -> [String] {
        var words: [String] = []
        var rest = text
        while true {
            rest = rest.drop { isSpace($0) }
            guard let first = rest.first, first != "#" else { return words }
            var word = ""
            var quote: Character?
            while let character = rest.first {
                if quote == nil, isSpace(character) { break }
                rest.removeFirst()
                if character == "\\", let next = rest.first,
                    next == "'" || next == "\"" || next == "\\" || (quote == nil && next == " ")
                {
                    word.append(next)
                    rest.removeFirst()
                } else if quote == nil, character == "\"" || character == "'" {
                    quote = character
                } else if character == quote {
                    quote = nil
                } else {
                    word.append(character)
                }
            }
            if let quote { throw SSHConfigurationError("a quote (\(quote)) is not closed") }
            words.append(word)
        }
    }
}
