import Glibc
import MeshIdentity
import Platform

/// A value as it stands in the configuration, with its place for errors.
struct ConfigurationValue: Hashable, Sendable {
    var text: String
    var file: String?
    var line: Int?
}

/// Replaces `%` tokens, `~/` and `${NAME}` (`ssh_config(5)`, TOKENS and ENVIRONMENT VARIABLES).
struct TokenExpansion {
    var account: LocalAccount
    var hostName: String
    var originalHost: String
    var port: UInt16
    var user: String
    var hostKeyAlias: String?
    /// As it was written; empty without one.
    var proxyJump = ""

    /// A path: the home directory, then the environment, then the tokens. What a variable holds is not expanded again.
    func path(_ value: ConfigurationValue) throws(SSHConfigurationError) -> String {
        var value = value
        if value.text.hasPrefix("~"), let path = account.expandingHome(value.text) {
            // A percent sign in the home directory is no token.
            let slash = value.text.firstIndex(of: "/") ?? value.text.endIndex
            let home = path.dropLast(value.text[slash...].count)
            value.text =
                home.split(separator: "%", omittingEmptySubsequences: false).joined(separator: "%%")
                + value.text[slash...]
        }
        return try expand(value, allowed: "CdhijkLlnpru", variables: true)
    }

    func tokens(_ value: ConfigurationValue, allowed: String) throws(SSHConfigurationError) -> String {
        try expand(value, allowed: allowed, variables: false)
    }

    private func expand(
        _ value: ConfigurationValue,
        allowed: String,
        variables: Bool
    ) throws(SSHConfigurationError) -> String {
        var result = ""
        var rest = Substring(value.text)
        while let character = rest.popFirst() {
            if character == "%" {
                guard let token = rest.popFirst() else { throw error(value, "'\(value.text)' ends in a lone '%'") }
                guard token == "%" || allowed.contains(token), let replacement = replacement(for: token) else {
                    throw error(value, "'\(value.text)': the token %\(token) is not supported here")
                }
                result += replacement
            } else if variables, character == "$", rest.first == "{" {
                guard let close = rest.firstIndex(of: "}") else {
                    throw error(value, "'\(value.text)': ${ is not closed")
                }
                let name = String(rest[rest.index(after: rest.startIndex)..<close])
                guard let replacement = account.environment[name] else {
                    throw error(value, "'\(value.text)': the environment variable \(name) is not set")
                }
                result += replacement
                rest = rest[rest.index(after: close)...]
            } else {
                result.append(character)
            }
        }
        return result
    }

    private func replacement(for token: Character) -> String? {
        switch token {
        case "%": "%"
        case "C": Digest.sha1(hostOfThisMachine + hostName + "\(port)" + user)
        case "d": account.home
        case "h": hostName
        case "i": "\(account.userID)"
        case "j": proxyJump
        case "k": hostKeyAlias ?? originalHost
        case "L": String(hostOfThisMachine.prefix { $0 != "." })
        case "l": hostOfThisMachine
        case "n": originalHost
        case "p": "\(port)"
        case "r": user
        case "u": account.user
        default: nil
        }
    }

    private var hostOfThisMachine: String {
        var name = [CChar](repeating: 0, count: 256)
        guard gethostname(&name, name.count - 1) == 0 else { return "" }
        return String(decoding: name.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    private func error(_ value: ConfigurationValue, _ message: String) -> SSHConfigurationError {
        SSHConfigurationError(file: value.file, line: value.line, message)
    }
}

extension LocalAccount {
    /// A path whose `~` is this account's home, also with its own name behind it; nil for another account's.
    func expandingHome(_ path: String) -> String? {
        guard path.hasPrefix("~") else { return path }
        let slash = path.firstIndex(of: "/") ?? path.endIndex
        let name = path[..<slash].dropFirst()
        return name.isEmpty || name == user ? home + path[slash...] : nil
    }

    /// Where passwd(5) has the home directory; nil where the account is not in the file.
    var recordedHome: String? {
        guard let contents = try? LocalFile.read("/etc/passwd") else { return nil }
        for (_, line) in LocalFile.lines(of: contents) {
            let fields = line.split(separator: ":", omittingEmptySubsequences: false)
            if fields.count >= 6, UInt32(fields[2]) == userID { return String(fields[5]) }
        }
        return nil
    }
}
