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

    /// A path: the home directory, then the environment, then the tokens. What a variable holds is not expanded again.
    func path(_ value: ConfigurationValue) throws(SSHConfigurationError) -> String {
        var value = value
        if value.text == "~" {
            value.text = account.home
        } else if value.text.hasPrefix("~/") {
            // A percent sign in the home directory is no token.
            let home = account.home.split(separator: "%", omittingEmptySubsequences: false).joined(separator: "%%")
            value.text = home + value.text.dropFirst()
        } else if value.text.hasPrefix("~") {
            throw error(value, "'\(value.text)': another user's home directory is not supported; write the full path")
        }
        return try expand(value, allowed: "dhiknpru", variables: true)
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
        case "d": account.home
        case "h": hostName
        case "i": "\(account.userID)"
        case "k": hostKeyAlias ?? originalHost
        case "n": originalHost
        case "p": "\(port)"
        case "r": user
        case "u": account.user
        default: nil
        }
    }

    private func error(_ value: ConfigurationValue, _ message: String) -> SSHConfigurationError {
        SSHConfigurationError(file: value.file, line: value.line, message)
    }
}
