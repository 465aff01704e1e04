import Streams

/// A login as `ssh` would do it: a resolved configuration, the hosts on the way, the keys to offer, and who is asked.
///
/// Resolved once, used for as many sessions as are needed. Safe to use from any task.
public struct SSHLogin: Sendable {
    /// Who can be asked, and told. Without an answerer the login fails where a question would be needed.
    public struct Prompts: Sendable {
        /// Whether an unknown host key is the right one.
        public var hostKey: HostKeyPolicy.Ask?
        /// The passphrase of an encrypted key file.
        public var passphrase: PassphrasePrompt?
        /// What the user should know: a recorded host key, an option without effect.
        public var warn: @Sendable (String) -> Void

        public init(
            hostKey: HostKeyPolicy.Ask? = nil,
            passphrase: PassphrasePrompt? = nil,
            warn: @escaping @Sendable (String) -> Void
        ) {
            self.hostKey = hostKey
            self.passphrase = passphrase
            self.warn = warn
        }
    }

    private struct Hop: Sendable {
        let configuration: SSHClientConfiguration
        let policy: HostKeyPolicy
    }

    /// The machine that is logged in to.
    public let configuration: SSHClientConfiguration
    /// Why libssh2 cannot do this login, as far as it is known before anything is dialled, for all hosts on the way; empty:
    /// nothing speaks against it. Where there is a reason, `ssh` is the better engine.
    public let limits: [EngineLimit]
    private let hops: [Hop]
    let arguments: SSHArguments
    let prompts: Prompts

    /// Reads the configuration and the known_hosts files of the destination and of every jump host.
    ///
    /// - Throws: ``SSHConfigurationError`` naming file and line.
    public init(
        to destination: Destination,
        arguments: SSHArguments = SSHArguments(),
        prompts: Prompts
    ) throws(SSHConfigurationError) {
        let configuration = try SSHClientConfiguration(resolving: destination, arguments: arguments)
        for note in configuration.notes where note.changesConnection && !note.isForSSHOnly { prompts.warn("\(note)") }
        var hops: [Hop] = []
        for jump in configuration.proxyJump {
            let hop = try SSHClientConfiguration(resolving: jump, arguments: arguments.forJumpHosts)
            hops.append(Hop(configuration: hop, policy: try Self.policy(hop, prompts)))
        }
        hops.append(Hop(configuration: configuration, policy: try Self.policy(configuration, prompts)))
        self.configuration = configuration
        self.hops = hops
        self.arguments = arguments
        self.prompts = prompts
        limits = hops.flatMap { Self.limits($0.configuration, $0.policy) }
    }

    /// - Parameter capabilities: what the engine can do.
    private static func limits(
        _ configuration: SSHClientConfiguration,
        _ policy: HostKeyPolicy,
        _ capabilities: EngineCapabilities = .current
    ) -> [EngineLimit] {
        var limits = configuration.limits + policy.limits(capabilities)
        // Nobody knows yet which keys the agent has; without one, the files are all there is.
        guard configuration.agentSocket == nil else { return limits }
        let files = configuration.existingIdentityFiles.compactMap { try? PrivateKeyFile(path: $0) }
        let unusable = files.compactMap { file in
            capabilities.limit(forUserKey: file.isRSA ? "ssh-rsa" : file.publicKey?.algorithm, name: file.name)
        }
        if !files.isEmpty && unusable.count == files.count { limits += unusable }
        return limits
    }

    /// Connects with libssh2, through the jump hosts, and authenticates.
    ///
    /// - Parameter loop: Where the session and its streams will live.
    func connectByLibSSH2(on loop: EventLoop) async throws(SSHError) -> SSHClient {
        if let limit = limits.first(where: \.isDecisive) {
            throw SSHError(
                .unsupported,
                "\(configuration.destination): \(limit.reason); `ssh` can make this connection",
                limits: limits
            )
        }
        var client: SSHClient?
        for hop in hops {
            let host = hop.configuration.hostName
            let port = hop.configuration.port
            let verifier = HostKeyCheck(policy: hop.policy)
            let session = sessionConfiguration(hop.configuration)
            if let jump = client {
                client = try await jump.connect(
                    host: host,
                    port: port,
                    configuration: session,
                    hostKeyVerifier: verifier
                )
            } else {
                client = try await SSHClient.connect(
                    host: host,
                    port: port,
                    configuration: session,
                    hostKeyVerifier: verifier,
                    on: loop,
                    connectTimeout: hop.configuration.connectTimeout ?? .seconds(10)
                )
            }
        }
        guard let client else { throw SSHError(.connectionFailed, "there is no host to connect to") }
        return client
    }

    private static func policy(
        _ configuration: SSHClientConfiguration,
        _ prompts: Prompts
    ) throws(SSHConfigurationError) -> HostKeyPolicy {
        try HostKeyPolicy(configuration, ask: prompts.hostKey, warn: prompts.warn)
    }

    private func sessionConfiguration(_ configuration: SSHClientConfiguration) -> SSHSessionConfiguration {
        var credentials: [SSHCredential] = []
        if let agent = configuration.agentSocket { credentials.append(.agent(socketPath: agent)) }
        credentials += configuration.existingIdentityFiles.map(SSHCredential.keyFile)
        var session = SSHSessionConfiguration(user: configuration.user, credentials: credentials)
        session.identitiesOnly = configuration.identitiesOnly
        session.passphrase = prompts.passphrase
        if let interval = configuration.serverAliveInterval {
            session.keepAlive = .init(interval: interval, count: configuration.serverAliveCountMax)
        }
        return session
    }
}

/// known_hosts and StrictHostKeyChecking, as a session asks them.
private struct HostKeyCheck: HostKeyVerifier {
    let policy: HostKeyPolicy

    var preferredAlgorithms: [String] { policy.preferredAlgorithms }

    var limits: [EngineLimit] { policy.limits }

    func check(_ key: HostKey) async throws { try await policy.check(key) }
}
