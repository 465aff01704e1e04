import CLinux
import Glibc
import Platform

/// A `ProxyCommand` that is this very program: `bootstrap connect %h -W localhost:22`, as the README has it for ssh.
/// One that leads to another host (`bootstrap connect gateway -W %h:%p`) is like any other.
///
/// When we make the connection ourselves we do not follow it: it would start us, and we ssh, and ssh us, without end.
/// The host is reached directly instead. What hides behind a wrapper is found by a variable that `ssh` and what it
/// starts inherit.
package enum OwnProxyCommand {
    /// What is under way already: `USER@HOST:PORT`, several separated by spaces.
    package static let variable = "BOOTSTRAP_SSH_TO"

    /// The options of `connect` that are whole without a value.
    private static let flags: Set<String> = [
        "-N", "-M", "-f", "-q", "--quiet", "-v", "--verbose", "-h", "--help", "--version",
    ]

    /// - Parameters:
    ///   - command: As ssh_config has it.
    ///   - hosts: The names of the host to log in to: as it was typed, and as it is dialled.
    ///   - program: This program's file.
    package static func isThisProgram(
        _ command: String,
        to hosts: [String],
        program: String = "/proc/self/exe"
    ) -> Bool {
        var words = command.split(whereSeparator: \.isWhitespace)[...]
        if words.first == "exec" { words = words.dropFirst() }
        guard let first = words.popFirst(), let verb = words.firstIndex(of: "connect"),
            let host = destination(words[(verb + 1)...])
        else { return false }
        guard ["%h", "%n"].contains(host) || hosts.contains(where: { $0.lowercased() == host.lowercased() }) else {
            return false
        }
        let path = unquoted(first)
        if path.split(separator: "/").last == "bootstrap" { return true }
        var (theirs, ours) = (stat(), stat())
        guard let found = Program.find(path), stat(found, &theirs) == 0, stat(program, &ours) == 0 else { return false }
        return theirs.st_dev == ours.st_dev && theirs.st_ino == ours.st_ino
    }

    /// The host of the first word that is neither an option nor the value of one.
    private static func destination(_ words: ArraySlice<Substring>) -> String? {
        var words = words
        while let word = words.popFirst().map(unquoted) {
            if word == "--" { return words.first.map { host(of: unquoted($0)) } }
            guard word.hasPrefix("-") else { return host(of: word) }
            // `--option=value` and `-p2222` have theirs with them.
            let isWhole = word.hasPrefix("--") ? word.contains("=") : word.count > 2
            if !isWhole, !flags.contains(word) { words = words.dropFirst() }
        }
        return nil
    }

    private static func unquoted(_ word: Substring) -> String { word.filter { $0 != "\"" && $0 != "'" } }

    /// `[user@]host[:port]` without the user and the port.
    private static func host(of text: String) -> String {
        var rest = text[...]
        if rest.lowercased().hasPrefix("ssh://") { rest = rest.dropFirst(6) }
        if let at = rest.lastIndex(of: "@") { rest = rest[rest.index(after: at)...] }
        if rest.first == "[" { return String(rest.dropFirst().prefix { $0 != "]" }) }
        // More than one colon is an IPv6 address.
        guard let colon = rest.firstIndex(of: ":"), colon == rest.lastIndex(of: ":") else { return String(rest) }
        return String(rest[..<colon])
    }

    /// Whether a connection to `peer` is what this process was started for, by an `ssh` that was started for it.
    package static func isUnderWay(to peer: String, in environment: [String: String]) -> Bool {
        (environment[variable] ?? "").split(separator: " ").contains { $0 == peer }
    }

    /// The environment of an `ssh` that connects to `peer`.
    static func environment(connectingTo peer: String, _ environment: [String: String]) -> [String: String] {
        var environment = environment
        environment[variable] = [environment[variable], peer].compactMap { $0 }.joined(separator: " ")
        return environment
    }
}
