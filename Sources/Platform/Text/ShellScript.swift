/// POSIX shell text.
package enum ShellScript {
    /// `text` as one word, whatever it holds.
    package static func quote(_ text: String) -> String {
        "'" + text.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "'\\''") + "'"
    }
}
