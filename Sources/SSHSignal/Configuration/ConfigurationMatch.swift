import Platform

/// `Match` of `ssh_config(5)`.
extension ConfigurationEvaluation {
    /// Whether the criteria of a `Match` line hold by what is set so far.
    ///
    /// - Parameter neverActive: The line cannot take effect: what it needs beyond this is nobody's concern.
    mutating func match(
        _ criteria: [String],
        at place: Place,
        neverActive: Bool
    ) throws(SSHConfigurationError) -> Bool {
        guard !criteria.isEmpty else { throw SSHConfigurationError("Match has no criterion") }
        var matches = true
        var count = 0
        var rest = criteria[...]
        while let word = rest.popFirst() {
            let isNegated = word.hasPrefix("!")
            let criterion = (isNegated ? String(word.dropFirst()) : word).lowercased()
            if criterion == "all" {
                // `Match final all` is how ssh_config(5) has it.
                guard rest.isEmpty, count <= 1 else { throw SSHConfigurationError("Match all stands alone") }
                return matches && !isNegated
            }
            count += 1
            if criterion == "canonical" || criterion == "final" {
                // The second pass is asked for by what may match in it, whether or not it does.
                if criterion == "final" { wantsFinalPass = true }
                if isFinalPass == isNegated { matches = false }
                continue
            }
            guard let value = rest.popFirst(), !value.isEmpty else {
                throw SSHConfigurationError("Match \(criterion) has no value")
            }
            // A command runs only where its outcome matters.
            if criterion == "exec", !matches || neverActive { continue }
            guard let holds = try holds(criterion, value) else {
                if matches, !neverActive { limit(.match, "Match \(criterion)", at: place) }
                matches = false
                continue
            }
            if holds == isNegated { matches = false }
        }
        return matches
    }

    /// nil for a criterion that only `ssh` itself can decide.
    private func holds(_ criterion: String, _ value: String) throws(SSHConfigurationError) -> Bool? {
        func isListed(_ text: String) -> Bool {
            HostPattern.matches(text, list: value.split(separator: ","))
        }
        switch criterion {
        case "host":
            return HostPattern.matches(try hostName().lowercased(), list: value.lowercased().split(separator: ","))
        case "originalhost":
            return HostPattern.matches(destination.host.lowercased(), list: value.lowercased().split(separator: ","))
        case "user": return isListed(options.user ?? account.user)
        case "localuser": return isListed(account.user)
        case "tagged": return isListed(options.tag ?? "")
        case "exec": return try succeeds(value)
        case "localnetwork": return try isLocal(value)
        case "version", "sessiontype", "command": return nil
        default: throw SSHConfigurationError("Match has an unknown criterion '\(criterion)'")
        }
    }

    /// For a command that does not end.
    private static let commandTimeout = Duration.seconds(20)

    /// Runs a command of `Match exec` by the user's shell, as `ssh` does.
    private func succeeds(_ command: String) throws(SSHConfigurationError) -> Bool {
        let host = try hostName()
        let expansion = TokenExpansion(
            account: account,
            hostName: host,
            originalHost: destination.host,
            port: options.port ?? 22,
            user: options.user ?? account.user,
            hostKeyAlias: options.hostKeyAlias ?? host,
            proxyJump: options.jumpHosts
        )
        let text = try expansion.tokens(ConfigurationValue(text: command), allowed: "CdhijkLlnpru")
        let shell = account.environment["SHELL"].flatMap { $0.isEmpty ? nil : $0 } ?? "/bin/sh"
        let program = Program(shell, [shell, "-c", text], environment: Program.currentEnvironment, group: .own)
        let end: ProgramEnd?
        do throws(SystemError) {
            end = try ProgramRun(program, timeout: Self.commandTimeout, errors: .tail(0)).run().status
        } catch {
            throw SSHConfigurationError("Match exec '\(command)': \(shell) cannot be started: \(error)")
        }
        guard let end else {
            throw SSHConfigurationError("Match exec '\(command)' has not ended within \(Self.commandTimeout)")
        }
        return end.isSuccess
    }

    /// Whether this machine has an address in one of the networks.
    private func isLocal(_ networks: String) throws(SSHConfigurationError) -> Bool {
        let addresses = InterfaceAddress.all().filter { $0.isOutward || $0.address.isLoopback }.map(\.address)
        for network in networks.split(separator: ",") {
            let range: CIDR
            do throws(AddressError) {
                range = try CIDR(parsing: String(network))
            } catch {
                throw SSHConfigurationError("Match localnetwork: \(error)")
            }
            if addresses.contains(where: range.contains) { return true }
        }
        return false
    }
}
