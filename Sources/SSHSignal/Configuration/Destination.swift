/// Where an SSH connection goes, as a user writes it: `[user@]host[:port]`, `ssh://[user@]host[:port]`, or an alias of
/// a `Host` line in `ssh_config(5)`. An IPv6 address stands in brackets when a port follows.
///
/// Only what was written is here; ``SSHLogin`` adds what the configuration files say about it.
public struct Destination: Hashable, Sendable, CustomStringConvertible {
    /// The account; nil leaves it to the configuration, or to the local account's name.
    public var user: String?
    /// A name, an alias or a numeric address (IPv6 without brackets).
    public var host: String
    /// 1–65535; nil leaves it to the configuration.
    public var port: UInt16?

    /// Nothing is checked; ``init(parsing:)`` does that for what a user wrote.
    ///
    /// - Parameters:
    ///   - user: The account.
    ///   - host: A name, an alias or a numeric address.
    ///   - port: 1–65535.
    public init(user: String? = nil, host: String, port: UInt16? = nil) {
        self.user = user
        self.host = host
        self.port = port
    }

    /// Refuses what could not be a host or a user, and what a shell or an option parser further down could take for
    /// something else (the characters OpenSSH refuses too).
    public init(parsing text: String) throws(SSHConfigurationError) {
        var rest = Substring(text)
        var isURI = false
        if rest.lowercased().hasPrefix("ssh://") {
            isURI = true
            rest = rest.dropFirst(6)
            if rest.hasSuffix("/") { rest = rest.dropLast() }
        }
        if let at = rest.lastIndex(of: "@") {
            var name = String(rest[..<at])
            if isURI {
                guard let decoded = Self.percentDecoded(name) else {
                    throw SSHConfigurationError("'\(text)': the user has a '%' that no two hexadecimal digits follow")
                }
                name = decoded
            }
            try Self.check(user: name, in: text)
            user = name
            rest = rest[rest.index(after: at)...]
        }
        (host, port) = try Self.splitHostAndPort(rest, in: text)
        try Self.check(host: host, in: text)
    }

    public var description: String {
        let prefix = user.map { $0 + "@" } ?? ""
        guard let port else { return prefix + host }
        return prefix + (host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)")
    }

    private static func splitHostAndPort(
        _ rest: Substring,
        in text: String
    ) throws(SSHConfigurationError) -> (String, UInt16?) {
        if rest.hasPrefix("[") {
            guard let close = rest.firstIndex(of: "]") else {
                throw SSHConfigurationError("'\(text)': the bracket of the IPv6 address is not closed")
            }
            let host = String(rest[rest.index(after: rest.startIndex)..<close])
            guard host.contains(":") else {
                throw SSHConfigurationError("'\(text)': only an IPv6 address stands in brackets")
            }
            let tail = rest[rest.index(after: close)...]
            if tail.isEmpty { return (host, nil) }
            guard tail.hasPrefix(":") else {
                throw SSHConfigurationError("'\(text)': only a colon and a port can follow the bracket")
            }
            return (host, try parse(port: tail.dropFirst(), in: text))
        }
        let colons = rest.count { $0 == ":" }
        guard colons == 1, let colon = rest.firstIndex(of: ":") else {
            // No colon: a name. Two or more: an IPv6 address as `ssh` takes it, which leaves no place for a port.
            return (String(rest), nil)
        }
        return (String(rest[..<colon]), try parse(port: rest[rest.index(after: colon)...], in: text))
    }

    private static func parse(port text: Substring, in whole: String) throws(SSHConfigurationError) -> UInt16 {
        guard let port = decimalPort(text) else {
            throw SSHConfigurationError("'\(whole)': the port '\(text)' is not a number from 1 to 65535")
        }
        return port
    }

    /// Digits only: `UInt16.init` alone would also take "+22".
    static func decimalPort(_ text: some StringProtocol) -> UInt16? {
        guard !text.isEmpty, text.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }) else {
            return nil
        }
        guard let port = UInt16(text), port > 0 else { return nil }
        return port
    }

    /// Refuses what ``init(parsing:)`` refuses, of an account that stands by itself.
    package static func check(user: String) throws(SSHConfigurationError) { try check(user: user, in: user) }

    private static func check(user: String, in text: String) throws(SSHConfigurationError) {
        guard !user.isEmpty else { throw SSHConfigurationError("'\(text)': there is no user before the '@'") }
        guard user.unicodeScalars.first != "-", user.unicodeScalars.last != "\\",
            !containsUnsafe(user, "'`\";&<>|(){} ")
        else {
            throw SSHConfigurationError("'\(text)': the user has a character that is not allowed")
        }
    }

    static func check(host: String, in text: String) throws(SSHConfigurationError) {
        guard !host.isEmpty else { throw SSHConfigurationError("'\(text)': there is no host") }
        guard host.unicodeScalars.first != "-", !containsUnsafe(host, "'`\"$\\;&<>|(){}@/[]*?! ,#") else {
            throw SSHConfigurationError("'\(text)': the host has a character that is not allowed")
        }
    }

    private static func containsUnsafe(_ text: String, _ unsafe: String) -> Bool {
        text.unicodeScalars.contains { $0.value < 0x20 || $0.value == 0x7F || unsafe.unicodeScalars.contains($0) }
    }

    private static func percentDecoded(_ text: String) -> String? {
        var bytes: [UInt8] = []
        var rest = Substring(text).utf8
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "%") else {
                bytes.append(byte)
                continue
            }
            guard let digits = String(rest.prefix(2)), digits.utf8.count == 2, !digits.hasPrefix("+"),
                !digits.hasPrefix("-"),
                let value = UInt8(digits, radix: 16)
            else { return nil }
            bytes.append(value)
            rest = rest.dropFirst(2)
        }
        return String(validating: bytes, as: UTF8.self)
    }
}
