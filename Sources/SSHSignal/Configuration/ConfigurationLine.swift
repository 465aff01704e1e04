/// One line of `ssh_config(5)`, split as `ssh` splits it.
struct ConfigurationLine: Hashable {
    /// As written; compared without case.
    var keyword: String
    var arguments: [String]
    /// What stands behind the keyword, as written.
    private let rest: [UInt8]

    /// nil for a blank line or a comment.
    ///
    /// The keyword ends at white space or one `=`. Arguments are separated by white space; `'…'` and `"…"` quote; a
    /// backslash escapes a quote, itself and, outside of quotes, a space; `#` at the start of an argument begins a
    /// comment.
    init?(parsing text: String) throws(SSHConfigurationError) {
        var bytes = Array(text.utf8)[...]
        while let last = bytes.last, Self.isSpace(last) || last == 0x0C { bytes.removeLast() }
        bytes = bytes.drop(while: Self.isSpace)
        guard let first = bytes.first, first != UInt8(ascii: "#") else { return nil }
        guard let word = Self.word(&bytes) else { throw SSHConfigurationError("a quote (\") is not closed") }
        guard !word.isEmpty else { throw SSHConfigurationError("a line begins with '='") }
        keyword = word
        rest = Array(bytes)
        arguments = try Self.split(bytes)
    }

    /// The arguments as `Match` takes them: each criterion ends at white space or one `=`, and `"…"` quotes.
    func criteria() throws(SSHConfigurationError) -> [String] {
        var words: [String] = []
        var bytes = rest[...]
        while let first = bytes.first, first != UInt8(ascii: "#") {
            guard let word = Self.word(&bytes) else { throw SSHConfigurationError("a quote (\") is not closed") }
            words.append(word)
        }
        return words
    }

    private static func isSpace(_ byte: UInt8) -> Bool {
        byte == UInt8(ascii: " ") || byte == UInt8(ascii: "\t") || byte == UInt8(ascii: "\r")
            || byte == UInt8(ascii: "\n")
    }

    private static func text(_ bytes: some Collection<UInt8>) -> String { String(decoding: bytes, as: UTF8.self) }

    /// Takes a word that ends at white space or one `=`, and what separates it from the next one; nil where a quote is
    /// not closed.
    private static func word(_ bytes: inout ArraySlice<UInt8>) -> String? {
        let quote = UInt8(ascii: "\"")
        let equals = UInt8(ascii: "=")
        let end = bytes.firstIndex { isSpace($0) || $0 == equals || $0 == quote } ?? bytes.endIndex
        if end < bytes.endIndex, bytes[end] == quote {
            let inside = bytes[(end + 1)...]
            guard let close = inside.firstIndex(of: quote) else { return nil }
            let word = Array(bytes[..<end]) + inside[..<close]
            bytes = inside[(close + 1)...].drop(while: isSpace)
            // A quoted keyword may have its value behind a `=` as well.
            if bytes.first == equals { bytes = bytes.dropFirst().drop(while: isSpace) }
            return text(word)
        }
        let word = text(bytes[..<end])
        bytes = bytes[end...].drop(while: isSpace)
        if bytes.first == equals { bytes = bytes.dropFirst().drop(while: isSpace) }
        return word
    }

    private static func split(_ bytes: ArraySlice<UInt8>) throws(SSHConfigurationError) -> [String] {
        let (space, backslash) = (UInt8(ascii: " "), UInt8(ascii: "\\"))
        let quotes = [UInt8(ascii: "'"), UInt8(ascii: "\"")]
        func separates(_ byte: UInt8) -> Bool { byte == space || byte == UInt8(ascii: "\t") }
        var words: [String] = []
        var rest = bytes
        while true {
            rest = rest.drop(while: separates)
            guard let first = rest.first, first != UInt8(ascii: "#") else { return words }
            var word: [UInt8] = []
            var quote: UInt8?
            while let byte = rest.first {
                if quote == nil, separates(byte) { break }
                rest.removeFirst()
                if byte == backslash, let next = rest.first,
                    quotes.contains(next) || next == backslash || (quote == nil && next == space)
                {
                    word.append(next)
                    rest.removeFirst()
                } else if quote == nil, quotes.contains(byte) {
                    quote = byte
                } else if byte == quote {
                    quote = nil
                } else {
                    word.append(byte)
                }
            }
            if let quote { throw SSHConfigurationError("a quote (\(text([quote]))) is not closed") }
            words.append(text(word))
        }
    }
}
