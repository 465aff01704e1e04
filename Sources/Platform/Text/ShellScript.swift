/// POSIX shell text.
package enum ShellScript {
    /// `text` as one word, whatever it holds.
    ///
    /// By bytes, as a shell reads it: an apostrophe with a combining mark behind it is another character to Swift, and
    /// would end the word.
    package static func quote(_ text: String) -> String {
        var word: [UInt8] = [UInt8(ascii: "'")]
        word.reserveCapacity(text.utf8.count + 2)
        for byte in text.utf8 {
            if byte == UInt8(ascii: "'") { word += "'\\''".utf8 } else { word.append(byte) }
        }
        word.append(UInt8(ascii: "'"))
        return String(decoding: word, as: UTF8.self)
    }
}
