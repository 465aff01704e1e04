/// The patterns of `ssh_config(5)` and `sshd(8)`'s known_hosts: `*` is any run of characters, `?` any single one; in a
/// list, an element that begins with `!` and matches makes the whole list not match.
enum HostPattern {
    /// Whether `text` matches `pattern` as a whole. Linear in memory, at worst the product of the lengths in time.
    static func matches(_ text: some StringProtocol, _ pattern: some StringProtocol) -> Bool {
        let text = Array(text.utf8)
        let pattern = Array(pattern.utf8)
        var position = 0
        var next = 0
        // Where to go back to when what follows the last `*` does not match: one more byte belongs to the `*`.
        var star: (pattern: Int, text: Int)?
        while position < text.count {
            if next < pattern.count, pattern[next] == UInt8(ascii: "*") {
                star = (next, position)
                next += 1
            } else if next < pattern.count, pattern[next] == UInt8(ascii: "?") || pattern[next] == text[position] {
                next += 1
                position += 1
            } else if let last = star {
                star = (last.pattern, last.text + 1)
                next = last.pattern + 1
                position = last.text + 1
            } else {
                return false
            }
        }
        return pattern[next...].allSatisfy { $0 == UInt8(ascii: "*") }
    }

    /// Whether any positive element matches and no negated one does.
    static func matches(_ text: some StringProtocol, list: some Sequence<some StringProtocol>) -> Bool {
        var positive = false
        for element in list {
            if element.hasPrefix("!") {
                if matches(text, element.dropFirst()) { return false }
            } else if matches(text, element) {
                positive = true
            }
        }
        return positive
    }
}
