extension ConfigurationEvaluation {
    /// The keywords about who logs in and how. False for any other keyword.
    mutating func setAuthentication(
        _ name: String,
        _ line: ConfigurationLine,
        at place: Place,
        active: Bool
    ) throws(SSHConfigurationError) -> Bool {
        func first(_ value: @autoclosure () -> Bool) -> Bool { active && value() }
        switch name {
        case "certificatefile":
            let value = try path(line, at: place, active: active)
            if first(!options.certificateFiles.contains { $0.text == value.text }) {
                options.certificateFiles.append(value)
            }
        case "identityagent":
            let value = try path(line, at: place, active: active)
            if first(options.identityAgent == nil) { options.identityAgent = value }
        case "preferredauthentications":
            let value = try single(line, at: place)
            if first(options.preferredAuthentications == nil) {
                options.preferredAuthentications = value.text.lowercased().split(separator: ",").map(String.init)
            }
        case "pubkeyauthentication", "dsaauthentication":
            let value = try single(line, at: place).text.lowercased()
            // What OpenSSH 8.9 added are ways of saying yes.
            let isOn = if ["unbound", "host-bound"].contains(value) { true } else { try flag(line, at: place) }
            if first(options.publicKey == nil) { options.publicKey = isOn }
        case "passwordauthentication":
            let value = try flag(line, at: place)
            if first(options.password == nil) { options.password = value }
        case "kbdinteractiveauthentication", "challengeresponseauthentication", "skeyauthentication",
            "tisauthentication":
            let value = try flag(line, at: place)
            if first(options.keyboardInteractive == nil) { options.keyboardInteractive = value }
        case "gssapiauthentication":
            // On by default in Debian's ssh_config: worth a word only when nothing else works.
            let value = try flag(line, at: place)
            if first(options.gssapi == nil) { options.gssapi = value }
        case "hostbasedauthentication":
            let value = try flag(line, at: place)
            if first(options.hostBased == nil) { options.hostBased = value }
        case "batchmode":
            let value = try flag(line, at: place)
            if first(options.batchMode == nil) { options.batchMode = value }
        case "numberofpasswordprompts":
            let value = try number(line, at: place)
            if first(options.passwordPrompts == nil) { options.passwordPrompts = value }
        default:
            return false
        }
        return true
    }
}

extension AuthenticationPreferences {
    /// - Parameter options: as evaluated.
    init(_ options: ConfigurationEvaluation.Options) {
        self.init()
        let order = options.preferredAuthentications ?? methods
        let switches = [
            "publickey": options.publicKey, "keyboard-interactive": options.keyboardInteractive,
            "password": options.password,
        ]
        let known = methods
        methods = order.filter { known.contains($0) && (switches[$0]?.flatMap { $0 } ?? true) }
        isBatch = options.batchMode ?? false
        passwordPrompts = min(3, options.passwordPrompts ?? 3)
        let preferred = ["gssapi-with-mic", "gssapi-keyex", "hostbased"]
        let isPreferred =
            options.preferredAuthentications.map { order in preferred.contains(where: order.contains) } ?? true
        wantsSingleSignOn = (options.gssapi ?? false || options.hostBased ?? false) && isPreferred
    }
}
