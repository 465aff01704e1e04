package import SSHSignal

/// How the command line says that hosts are logged in to.
package struct LoginOptions: Sendable {
    /// As they were given.
    package var arguments: SSHArguments
    /// Who answers what a login asks.
    package var prompts: SSHLogin.Prompts
    /// Told how each host is logged in to.
    package var note: @Sendable (String) -> Void = { _ in }
    /// What was probably meant by a host whose name does not resolve; nil: nothing is known.
    package var suggest: @Sendable (String) -> String? = { _ in nil }

    package init(_ arguments: SSHArguments, prompts: SSHLogin.Prompts) {
        self.arguments = arguments
        self.prompts = prompts
    }

    /// Those of the command line, and what was recorded where it is silent. Of what may be given several times, the
    /// command line's come first, so that they count where there can be one only.
    package func arguments(recorded: SSHArguments?) -> SSHArguments {
        guard let recorded else { return arguments }
        var merged = arguments
        merged.configurationFile = arguments.configurationFile ?? recorded.configurationFile
        merged.options += recorded.options.filter { !arguments.options.contains($0) }
        merged.identityFiles += recorded.identityFiles.filter { !arguments.identityFiles.contains($0) }
        merged.port = arguments.port ?? recorded.port
        merged.jump = arguments.jump ?? recorded.jump
        merged.hostKey = arguments.hostKey ?? recorded.hostKey
        if arguments.engine == .automatic { merged.engine = recorded.engine }
        return merged
    }

    /// - Parameters:
    ///   - recorded: How it was enrolled; nil for a host that was not.
    ///   - warn: Gets what the user should know.
    package func login(
        to destination: Destination,
        recorded: SSHArguments? = nil,
        warn: @escaping @Sendable (String) -> Void
    ) throws(SSHConfigurationError) -> SSHLogin {
        var prompts = prompts
        prompts.warn = warn
        var login = try SSHLogin(to: destination, arguments: arguments(recorded: recorded), prompts: prompts)
        // What was recorded was not typed.
        if recorded == nil { login.suggestion = { [suggest] in suggest(destination.host) } }
        let found = login.configuration
        let way = found.proxyJump.map { "\($0)" }.joined(separator: ", ")
        note(
            "\(destination): \(found.user)@\(found.hostName), port \(found.port)\(way.isEmpty ? "" : ", by way of \(way)")"
        )
        return login
    }
}
