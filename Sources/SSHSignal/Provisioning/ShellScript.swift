/// POSIX shell text.
enum ShellScript {
    /// `text` as one word, whatever it holds.
    static func quote(_ text: String) -> String {
        "'" + text.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "'\\''") + "'"
    }
}
