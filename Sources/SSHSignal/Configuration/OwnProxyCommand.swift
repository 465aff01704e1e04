import CLinux
import Glibc
import Platform

/// A `ProxyCommand` that is this very program: `bootstrap connect %h -W localhost:22`, as the README has it for ssh.
///
/// When we make the connection ourselves we do not follow it: it would start us, and we ssh, and ssh us, without end.
/// The host is reached directly instead. What hides behind a wrapper is found by a variable that `ssh` and what it
/// starts inherit.
package enum OwnProxyCommand {
    /// What is under way already: `USER@HOST:PORT`, several separated by spaces.
    package static let variable = "BOOTSTRAP_SSH_TO"

    /// - Parameters:
    ///   - command: As ssh_config has it.
    ///   - program: This program's file.
    package static func isThisProgram(_ command: String, program: String = "/proc/self/exe") -> Bool {
        var words = command.split(whereSeparator: \.isWhitespace)[...]
        if words.first == "exec" { words = words.dropFirst() }
        guard let first = words.popFirst(), words.contains("connect") else { return false }
        let path = first.filter { $0 != "\"" && $0 != "'" }
        if path.split(separator: "/").last == "bootstrap" { return true }
        var (theirs, ours) = (stat(), stat())
        guard let found = Program.find(path), stat(found, &theirs) == 0, stat(program, &ours) == 0 else { return false }
        return theirs.st_dev == ours.st_dev && theirs.st_ino == ours.st_ino
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
