import Streams

/// A login as `ssh` would do it: a resolved configuration, the hosts on the way, the keys to offer, and who is asked.
///
/// Resolved once, used for as many sessions as are needed. Safe to use from any task.
public struct SSHLogin: Sendable {
    /// Who can be asked, and told. Without an answerer the login fails where a question would be needed.
    public struct Prompts: Sendable {
        /// Whether an unknown host key is the right one.
        public var hostKey: HostKeyPrompt?
        /// The passphrase of an encrypted key file.
        public var passphrase: PassphrasePrompt?
        /// A password, or whatever else the server asks.
        public var authentication: AuthenticationPrompt?
        /// Told what the server says before the login (`Banner` of sshd_config), cleaned; nil: nobody hears it.
        public var banner: (@Sendable (String) -> Void)?
        /// A file with the destination's password, for an `ssh` that cannot ask ``authentication``.
        package var passwordFile: String?
        /// What the user should know: a recorded host key, an option without effect.
        public var warn: @Sendable (String) -> Void
        /// What was said already. One run may log in to a host several times: copies of the prompts say it once.
        private let told = Lock<Set<[String]>>([])

        /// - Parameters:
        ///   - hostKey: Asked about an unknown host key; nil refuses it.
        ///   - passphrase: Asked for the passphrase of a key file; nil leaves encrypted keys aside.
        ///   - authentication: Asked for passwords; nil leaves those methods aside.
        ///   - warn: Told what the user should know; from any thread.
        public init(
            hostKey: HostKeyPrompt? = nil,
            passphrase: PassphrasePrompt? = nil,
            authentication: AuthenticationPrompt? = nil,
            warn: @escaping @Sendable (String) -> Void
        ) {
            self.hostKey = hostKey
            self.passphrase = passphrase
            self.authentication = authentication
            self.warn = warn
        }

        /// The same warnings, and nobody who answers.
        var withoutQuestions: Prompts {
            var prompts = self
            (prompts.hostKey, prompts.passphrase, prompts.authentication) = (nil, nil, nil)
            (prompts.banner, prompts.passwordFile) = (nil, nil)
            return prompts
        }

        /// Shows what a host says before the login, unless it has said the same before.
        func banner(of host: String) -> (@Sendable (String) -> Void)? {
            guard let show = banner else { return nil }
            return { [told] text in if told.isNew([host, text]) { show(text) } }
        }

        /// Warns of what does not change between two logins.
        func warnOnce(_ text: String) { if told.isNew([text]) { warn(text) } }

        /// A line of the `ssh` program's, among them those of the banner. That a key waits to be touched, or that a
        /// password was wrong, is said each time.
        func relay(_ line: String, of host: String) {
            let isAnswer = line.hasPrefix("Confirm user presence") || line.hasPrefix("Permission denied")
            if isAnswer || told.isNew([host, line]) { warn(line) }
        }
    }

    /// A host on the way, or the destination.
    struct Hop: Sendable {
        let configuration: SSHClientConfiguration
        var policy: HostKeyPolicy
        let isDestination: Bool
    }

    /// The machine that is logged in to.
    package let configuration: SSHClientConfiguration
    /// Why libssh2 cannot do this login, as far as it is known before anything is dialled, for all hosts on the way;
    /// empty: nothing speaks against it. Where there is a reason, `ssh` is the better engine.
    package let limits: [EngineLimit]
    private(set) var hops: [Hop]
    private(set) var arguments: SSHArguments
    private(set) var prompts: Prompts
    /// What an earlier login has established; this one has to be the same.
    private(set) var repetition: Repetition?
    /// Why the destination is not to be logged in to although its host key is the right one; nil: nothing speaks
    /// against it. Asked with the key that it has proven to have, before anything secret is sent; where `ssh` logs in,
    /// before the session is used. From any thread.
    package var objection: (@Sendable (HostKey) -> String?)?
    /// What was probably meant by the destination, where its name does not resolve; asked then, from any thread.
    package var suggestion: (@Sendable () -> String?)?

    /// As of ``SSHSessionConfiguration/offersKeysAtOnce``.
    private(set) var offersKeysAtOnce = false

    /// Told how the login goes on; from any thread.
    package var onProgress: (@Sendable (LoginProgress) -> Void)?

    /// Reads the configuration and the known_hosts files of the destination and of every jump host.
    ///
    /// - Throws: ``SSHConfigurationError`` naming file and line.
    public init(
        to destination: Destination,
        arguments: SSHArguments = SSHArguments(),
        prompts: Prompts
    ) throws(SSHConfigurationError) {
        let configurations = try Self.chain(to: destination, arguments, below: [])
        var arguments = arguments
        // As ssh, which says so and goes on. What is run for this login need not say it again.
        arguments.identityFiles.removeAll { file in
            guard let reason = SSHClientConfiguration.inaccessibility(of: file) else { return false }
            prompts.warnOnce("Identity file \(file) not accessible: \(reason)")
            return true
        }
        var told: Set<SSHClientConfiguration.Note> = []
        for note in configurations.flatMap(\.notes) where note.changesConnection && !note.isForSSHOnly {
            if told.insert(note).inserted { prompts.warn("\(note)") }
        }
        hops = configurations.enumerated().map { index, configuration in
            Hop(
                configuration: configuration,
                policy: HostKeyPolicy(
                    configuration,
                    ask: configuration.authentication.isBatch ? nil : prompts.hostKey,
                    warn: prompts.warn
                ),
                isDestination: index == configurations.count - 1
            )
        }
        guard let last = configurations.last else {
            throw SSHConfigurationError("'\(destination)' resolves to no host")
        }
        configuration = last
        self.arguments = arguments
        self.prompts = prompts
        limits = hops.flatMap { Self.limits($0.configuration, $0.policy) }
    }

    /// The hosts on the way and the destination, nearest first. As in `ssh`, the first host of a ProxyJump list is
    /// reached as its own configuration says, its ProxyJump included; each later one through the one before it.
    ///
    /// - Parameter stack: the jump hosts that are being resolved, to find a circle.
    private static func chain(
        to destination: Destination,
        _ arguments: SSHArguments,
        below stack: [Destination]
    ) throws(SSHConfigurationError) -> [SSHClientConfiguration] {
        let configuration = try SSHClientConfiguration(resolving: destination, arguments: arguments)
        guard let nearest = configuration.proxyJump.first else { return [configuration] }
        // Addresses may well be the same: behind a jump host, 127.0.0.1 is another machine. What ends nowhere is the
        // same name that leads to itself.
        guard !stack.contains(nearest) else {
            let way = (stack + [nearest]).map(\.description).joined(separator: " → ")
            throw SSHConfigurationError("ProxyJump goes in a circle: \(way)")
        }
        var chain = try chain(to: nearest, arguments.forJumpHosts, below: stack + [nearest])
        for jump in configuration.proxyJump.dropFirst() {
            var arguments = arguments.forJumpHosts
            arguments.jump = "none"
            chain.append(try SSHClientConfiguration(resolving: jump, arguments: arguments))
        }
        return chain + [configuration]
    }

    /// - Parameter capabilities: what the engine can do.
    private static func limits(
        _ configuration: SSHClientConfiguration,
        _ policy: HostKeyPolicy,
        _ capabilities: EngineCapabilities = .current
    ) -> [EngineLimit] {
        var limits = configuration.limits + policy.limits(capabilities)
        limits += SSHSessionConfiguration.algorithmLimits(configuration, capabilities)
        // Nobody knows yet which keys the agent has; without one, the files are all there is. Those that are named are
        // wanted before all others.
        guard configuration.agentSocket == nil || configuration.identityFilesAreExplicit else { return limits }
        let files = configuration.existingIdentityFiles.compactMap { try? PrivateKeyFile(path: $0) }
        let unusable = files.compactMap { file in
            capabilities.limit(forUserKey: file.isRSA ? "ssh-rsa" : file.publicKey?.algorithm, name: file.name)
        }
        if !files.isEmpty && unusable.count == files.count { limits += unusable }
        return limits
    }

    /// The same login, which asks nobody: for a further session while the first one is in use. It fails where a
    /// question would be needed.
    package var withoutQuestions: SSHLogin {
        var login = self
        // Where a key is not enough, the login fails in any case.
        login.offersKeysAtOnce = true
        login.prompts = prompts.withoutQuestions
        for index in login.hops.indices { login.hops[index].policy = login.hops[index].policy.withoutQuestions }
        return login
    }

    /// What a login has established that is to be done once more.
    struct Repetition: Sendable {
        var hostKey: HostKey
        var key: SilentKey
    }

    /// The same login as the one that has made `connection`, by the user's own `ssh` program: with the same key, to a
    /// host with the same host key. Nobody is asked or told anything.
    ///
    /// nil where there is no `ssh`, where the user has chosen the engine, where somebody was asked, and where other
    /// hosts are on the way: `ssh` would ask for what they want by itself.
    package func repeatedByOpenSSH(_ connection: any SSHConnection) -> SSHLogin? {
        guard arguments.engine == .automatic, hops.count == 1, let session = connection as? SSHSession,
            let hostKey = session.hostKey, let key = session.silentKey, OpenSSHProgram.find() != nil
        else { return nil }
        var login = withoutQuestions
        login.arguments.engine = .openSSH
        login.prompts = Prompts(warn: { _ in })
        login.repetition = Repetition(hostKey: hostKey, key: key)
        return login
    }

    /// Why the destination's pinned key must not be accepted all the same; nil: nothing speaks against it.
    var revocation: HostKeyError? { hops.last?.policy.pinnedRevocation }

    /// The hosts on the way and the destination, for tests.
    var hostNames: [String] { hops.map(\.configuration.hostName) }

    /// Each host that is logged in to, nearest first: name or address, and port.
    package var way: [String] {
        hops.map { hop in
            let (host, port) = (hop.configuration.hostName, hop.configuration.port)
            return host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
        }
    }
}

extension Lock<Set<[String]>> {
    /// Notes it; as long as no server says something else each time.
    fileprivate func isNew(_ words: [String]) -> Bool {
        withLock { $0.count < 1000 ? $0.insert(words).inserted : !$0.contains(words) }
    }
}
