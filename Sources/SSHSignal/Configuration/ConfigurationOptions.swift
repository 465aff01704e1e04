import Platform

extension ConfigurationEvaluation {
    /// Keywords that decide which machine is reached, which keys it may have or which ones are offered to it.
    private static let connectionKeywords: Set<String> = ["requiredrsasize"]

    /// Keywords whose effect only `ssh` itself can have, unless they are switched off. Of each the first line counts.
    private static let limitingKeywords: [String: EngineLimit.Kind] = [
        "bindinterface": .keyword, "canonicalizehostname": .keyword, "checkhostip": .keyword,
        "knownhostscommand": .keyword, "pkcs11provider": .smartCard, "smartcarddevice": .smartCard,
        "rekeylimit": .keyword, "revokedhostkeys": .keyword, "verifyhostkeydns": .keyword,
    ]

    /// `none`, `no` and `default` are the defaults of what they stand behind.
    private static func isOff(_ line: ConfigurationLine) -> Bool {
        let off: Set = ["none", "no", "false", "default", ""]
        return line.arguments.allSatisfy { off.contains($0.lowercased()) }
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
            guard let port = Destination.decimalPort(value.text) ?? Self.servicePort(value.text) else {
                throw SSHConfigurationError("Port '\(value.text)' is not a number from 1 to 65535")
            }
            if first(options.port == nil) { options.port = port }
        case "identityfile", "identityfile2":
            let value = try path(line, at: place, active: active)
            if first(!options.identityFiles.contains { $0.text == value.text }) { options.identityFiles.append(value) }
        case "identitiesonly":
            let value = try flag(line, at: place)
            if first(options.identitiesOnly == nil) { options.identitiesOnly = value }
        case "hashknownhosts":
            let value = try flag(line, at: place)
            if first(options.hashKnownHosts == nil) { options.hashKnownHosts = value }
        case "userknownhostsfile":
            let values = try several(line, at: place)
            for value in values { leaveForeignHome(value, line, at: place, active: active) }
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
            if first(options.proxyJump == nil && !options.hasProxyCommand) { options.proxyJump = value }
        case "proxycommand":
            guard !line.arguments.isEmpty else { throw SSHConfigurationError("ProxyCommand has no value") }
            let jumps = options.proxyJump.map { $0.text.lowercased() != "none" } ?? false
            if first(!jumps && !options.hasProxyCommand) {
                options.hasProxyCommand = true
                let isNone = line.arguments.map { $0.lowercased() } == ["none"]
                // A host name that comes further down is not known yet: then ssh logs in, which knows it.
                let hosts = [destination.host] + (options.hostName.map { [$0.text] } ?? [])
                if !isNone, !OwnProxyCommand.isThisProgram(line.arguments.joined(separator: " "), to: hosts) {
                    limit(.proxyCommand, line.keyword, at: place)
                }
            }
        case "connecttimeout":
            let value = try time(line, at: place)
            if first(options.connectTimeout == nil), let value { options.connectTimeout = value }
        case "serveraliveinterval":
            let value = try time(line, at: place)
            if first(options.serverAliveInterval == nil), let value { options.serverAliveInterval = value }
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
        case "tag":
            let value = try single(line, at: place)
            if first(options.tag == nil) { options.tag = value.text }
        case "loglevel":
            let value = try single(line, at: place)
            if first(options.logLevel == nil) { options.logLevel = value.text.lowercased() }
        case "nohostauthenticationforlocalhost":
            let value = try flag(line, at: place)
            if first(options.trustsLoopback == nil) { options.trustsLoopback = value }
        case "controlpath":
            let value = try single(line, at: place)
            if first(options.controlPath == nil) { options.controlPath = value }
        case "controlmaster":
            let value = try single(line, at: place)
            guard let master = ControlMaster(value.text) else {
                throw SSHConfigurationError("ControlMaster is yes, no, auto, ask or autoask, not '\(value.text)'")
            }
            if first(options.controlMaster == nil) { options.controlMaster = master }
        case "controlpersist":
            let value = try single(line, at: place)
            guard let persist = ControlPersist(value.text) else {
                throw SSHConfigurationError("ControlPersist is yes, no or a time (30, 10m), not '\(value.text)'")
            }
            if first(options.controlPersist == nil) { options.controlPersist = persist }
        case "exitonforwardfailure":
            let value = try flag(line, at: place)
            if first(options.exitOnForwardFailure == nil) { options.exitOnForwardFailure = value }
        default:
            if try setAuthentication(name, line, at: place, active: active) { return }
            if try setAlgorithms(name, line, at: place, active: active) { return }
            guard active else { return }
            if let kind = Self.limitingKeywords[name] {
                if options.seen.insert(name).inserted, !Self.isOff(line) { limit(kind, line.keyword, at: place) }
            } else {
                note(line.keyword, at: place, changesConnection: Self.connectionKeywords.contains(name))
            }
        }
    }

    /// The port of a service, by its name in services(5).
    private static func servicePort(_ name: String) -> UInt16? {
        guard let contents = try? LocalFile.read("/etc/services") else { return nil }
        for (_, line) in LocalFile.lines(of: contents) {
            let words = line.prefix { $0 != "#" }.split(whereSeparator: \.isWhitespace)
            guard words.count >= 2, words[1].hasSuffix("/tcp") else { continue }
            if words[0] == name || words.dropFirst(2).contains(Substring(name)) {
                return Destination.decimalPort(words[1].dropLast(4))
            }
        }
        return nil
    }

    /// False for a keyword that is about no algorithms.
    private mutating func setAlgorithms(
        _ name: String,
        _ line: ConfigurationLine,
        at place: Place,
        active: Bool
    ) throws(SSHConfigurationError) -> Bool {
        let option: WritableKeyPath<Options, AlgorithmList?>
        switch name {
        case "ciphers": option = \.ciphers
        case "macs": option = \.macs
        case "kexalgorithms": option = \.keyExchanges
        case "hostkeyalgorithms": option = \.hostKeyAlgorithms
        case "pubkeyacceptedalgorithms", "pubkeyacceptedkeytypes": option = \.acceptedKeys
        default: return false
        }
        let value = try single(line, at: place).text
        guard let list = AlgorithmList(value) else {
            throw SSHConfigurationError("\(line.keyword) '\(value)' is not a list of algorithms")
        }
        if active, options[keyPath: option] == nil { options[keyPath: option] = list }
        return true
    }

    /// A path that may begin with a home directory.
    mutating func path(
        _ line: ConfigurationLine,
        at place: Place,
        active: Bool
    ) throws(SSHConfigurationError) -> ConfigurationValue {
        let value = try single(line, at: place)
        leaveForeignHome(value, line, at: place, active: active)
        return value
    }

    /// Where another user's home directory is, `ssh` finds out.
    private mutating func leaveForeignHome(
        _ value: ConfigurationValue,
        _ line: ConfigurationLine,
        at place: Place,
        active: Bool
    ) {
        guard active, value.text.hasPrefix("~"), account.expandingHome(value.text) == nil else { return }
        limit(.keyword, "\(line.keyword) \(value.text)", at: place)
    }

    /// nil for `none`, after which, as in `ssh`, a later line counts.
    private func time(_ line: ConfigurationLine, at place: Place) throws(SSHConfigurationError) -> Int? {
        let value = try single(line, at: place).text
        if value.lowercased() == "none" { return nil }
        guard let seconds = Self.seconds(value) else {
            throw SSHConfigurationError("\(line.keyword) '\(value)' is not a time (30, 1m30s)")
        }
        return seconds
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
