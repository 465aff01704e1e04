extension ConfigurationEvaluation {
    /// Keywords that decide which machine is reached, which keys it may have or which ones are offered to it.
    private static let connectionKeywords: Set<String> = [
        "checkhostip", "ciphers", "hostkeyalgorithms", "kexalgorithms", "macs", "proxyusefdpass",
        "pubkeyacceptedalgorithms", "pubkeyacceptedkeytypes", "requiredrsasize", "rekeylimit", "securitykeyprovider",
        "hostbasedauthentication", "casignaturealgorithms", "hostbasedacceptedalgorithms", "hostbasedkeytypes",
        "fingerprinthash", "verifyhostkeydns", "updatehostkeys",
    ]

    /// Keywords whose effect only `ssh` itself can have, unless they are switched off.
    private static let limitingKeywords: [String: EngineLimit.Kind] = [
        "bindinterface": .keyword, "canonicalizehostname": .keyword, "knownhostscommand": .keyword,
        "pkcs11provider": .smartCard, "proxycommand": .proxyCommand, "revokedhostkeys": .keyword,
    ]

    /// `none` and `no` are the defaults of what they stand behind.
    private static func isOff(_ line: ConfigurationLine) -> Bool {
        ["none", "no", "false", ""].contains(line.arguments.first?.lowercased() ?? "")
    }

    /// Checks the value even where the block is not in effect, as `ssh` does, so that a mistake is found at once.
    mutating func set(
        _ line: ConfigurationLine,
        at place: Place,
        active: Bool
    ) throws(SSHConfigurationError) {
        let name = line.keyword.lowercased()
        func first(_ value: @autoclosure () -> Bool) -> Bool { active && value() }
        switch name {
        case "hostname":
            let value = try single(line, at: place)
            if first(options.hostName == nil) { options.hostName = value }
        case "user":
            let value = try single(line, at: place)
            if first(options.user == nil) { options.user = value.text }
        case "port":
            let value = try single(line, at: place)
            guard let port = Destination.decimalPort(value.text) else {
                throw SSHConfigurationError("Port '\(value.text)' is not a number from 1 to 65535")
            }
            if first(options.port == nil) { options.port = port }
        case "identityfile":
            let value = try single(line, at: place)
            if first(!options.identityFiles.contains { $0.text == value.text }) { options.identityFiles.append(value) }
        case "identitiesonly":
            let value = try flag(line, at: place)
            if first(options.identitiesOnly == nil) { options.identitiesOnly = value }
        case "hashknownhosts":
            let value = try flag(line, at: place)
            if first(options.hashKnownHosts == nil) { options.hashKnownHosts = value }
        case "userknownhostsfile":
            let values = try several(line, at: place)
            if first(options.userKnownHostsFiles == nil) { options.userKnownHostsFiles = values }
        case "globalknownhostsfile":
            let values = try several(line, at: place)
            if first(options.globalKnownHostsFiles == nil) { options.globalKnownHostsFiles = values }
        case "hostkeyalias":
            let value = try single(line, at: place)
            if first(options.hostKeyAlias == nil) { options.hostKeyAlias = value.text.lowercased() }
        case "stricthostkeychecking":
            let value = try strictHostKeyChecking(line, at: place)
            if first(options.strictHostKeyChecking == nil) { options.strictHostKeyChecking = value }
        case "proxyjump":
            let value = try single(line, at: place)
            if first(options.proxyJump == nil) { options.proxyJump = value }
        case "connecttimeout":
            let value = try single(line, at: place)
            let seconds: Int?
            if value.text.lowercased() == "none" {
                seconds = nil
            } else if let parsed = Self.seconds(value.text), parsed > 0 {
                seconds = parsed
            } else {
                throw SSHConfigurationError("ConnectTimeout '\(value.text)' is not a time (30, 1m30s)")
            }
            if first(options.connectTimeout == nil) { options.connectTimeout = .some(seconds) }
        case "serveraliveinterval":
            let value = try single(line, at: place)
            guard let seconds = Self.seconds(value.text) else {
                throw SSHConfigurationError("ServerAliveInterval '\(value.text)' is not a time (30, 1m30s)")
            }
            if first(options.serverAliveInterval == nil) { options.serverAliveInterval = seconds }
        case "serveralivecountmax":
            let value = try number(line, at: place)
            if first(options.serverAliveCountMax == nil) { options.serverAliveCountMax = value }
        case "addressfamily":
            let value = try single(line, at: place)
            guard let family = AddressFamily(rawValue: value.text.lowercased()) else {
                throw SSHConfigurationError("AddressFamily is any, inet or inet6, not '\(value.text)'")
            }
            if first(options.addressFamily == nil) { options.addressFamily = family }
        case "bindaddress":
            let value = try single(line, at: place)
            if first(options.bindAddress == nil) { options.bindAddress = value.text }
        default:
            if try setAuthentication(name, line, at: place, active: active) { return }
            guard active else { return }
            if name == "proxycommand", OwnProxyCommand.isThisProgram(line.arguments.joined(separator: " ")) { return }
            if let kind = Self.limitingKeywords[name], !Self.isOff(line) {
                limit(kind, line.keyword, at: place)
            } else {
                note(line.keyword, at: place, changesConnection: Self.connectionKeywords.contains(name))
            }
        }
    }

    func number(_ line: ConfigurationLine, at place: Place) throws(SSHConfigurationError) -> Int {
        let value = try single(line, at: place).text
        guard value.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }), let number = Int32(value)
        else { throw SSHConfigurationError("\(line.keyword) '\(value)' is not a number") }
        return Int(number)
    }

    func single(_ line: ConfigurationLine, at place: Place) throws(SSHConfigurationError) -> ConfigurationValue {
        guard let value = line.arguments.first, !value.isEmpty else {
            throw SSHConfigurationError("\(line.keyword) has no value")
        }
        guard line.arguments.count == 1 else {
            throw SSHConfigurationError("\(line.keyword) takes one value, and '\(line.arguments[1])' follows it")
        }
        return ConfigurationValue(text: value, file: place.file, line: place.line)
    }

    private func several(
        _ line: ConfigurationLine,
        at place: Place
    ) throws(SSHConfigurationError) -> [ConfigurationValue] {
        guard !line.arguments.isEmpty, !line.arguments.contains("") else {
            throw SSHConfigurationError("\(line.keyword) has no value")
        }
        return line.arguments.map { ConfigurationValue(text: $0, file: place.file, line: place.line) }
    }

    func flag(_ line: ConfigurationLine, at place: Place) throws(SSHConfigurationError) -> Bool {
        let value = try single(line, at: place).text
        switch value.lowercased() {
        case "yes", "true": return true
        case "no", "false": return false
        default: throw SSHConfigurationError("\(line.keyword) is yes or no, not '\(value)'")
        }
    }

    private func strictHostKeyChecking(
        _ line: ConfigurationLine,
        at place: Place
    ) throws(SSHConfigurationError) -> StrictHostKeyChecking {
        let value = try single(line, at: place).text
        switch value.lowercased() {
        case "yes", "true": return .yes
        case "ask": return .ask
        case "accept-new": return .acceptNew
        case "no", "false", "off": return .no
        default: throw SSHConfigurationError("\(line.keyword) is yes, ask, accept-new or no, not '\(value)'")
        }
    }

    /// `sshd_config(5)`, TIME FORMATS: a sum of numbers, each with a unit (s, m, h, d, w) or, in seconds, without.
    static func seconds(_ text: String) -> Int? {
        var total = 0
        var number: Int?
        func add(_ factor: Int) -> Bool {
            guard let value = number else { return false }
            let (product, overflow) = value.multipliedReportingOverflow(by: factor)
            guard !overflow, product <= Int(Int32.max) - total else { return false }
            total += product
            number = nil
            return true
        }
        for character in text.lowercased() {
            if let digit = character.wholeNumberValue, character.isASCII {
                let value = (number ?? 0) * 10 + digit
                guard value <= Int(Int32.max) else { return nil }
                number = value
                continue
            }
            let factors: [Character: Int] = ["s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800]
            guard let factor = factors[character], add(factor) else { return nil }
        }
        if number != nil, !add(1) { return nil }
        return text.isEmpty ? nil : total
    }
}
