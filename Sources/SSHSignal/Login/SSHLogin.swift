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
        /// A password, or whatever else the server asks.
        public var authentication: AuthenticationPrompt?
        /// What the user should know: a recorded host key, an option without effect.
        public var warn: @Sendable (String) -> Void

        public init(
            hostKey: HostKeyPolicy.Ask? = nil,
            passphrase: PassphrasePrompt? = nil,
            authentication: AuthenticationPrompt? = nil,
            warn: @escaping @Sendable (String) -> Void
        ) {
            self.hostKey = hostKey
            self.passphrase = passphrase
            self.authentication = authentication
            self.warn = warn
        }
    }

    private struct Hop: Sendable {
        let configuration: SSHClientConfiguration
        var policy: HostKeyPolicy
    }

    /// The machine that is logged in to.
    public let configuration: SSHClientConfiguration
    /// Why libssh2 cannot do this login, as far as it is known before anything is dialled, for all hosts on the way; empty:
    /// nothing speaks against it. Where there is a reason, `ssh` is the better engine.
    public let limits: [EngineLimit]
    private var hops: [Hop]
    let arguments: SSHArguments
    private(set) var prompts: Prompts

    /// Reads the configuration and the known_hosts files of the destination and of every jump host.
    ///
    /// - Throws: ``SSHConfigurationError`` naming file and line.
    public init(
        to destination: Destination,
        arguments: SSHArguments = SSHArguments(),
        prompts: Prompts
    ) throws(SSHConfigurationError) {
        let configurations = try Self.chain(to: destination, arguments, below: [])
        var told: Set<SSHClientConfiguration.Note> = []
        for note in configurations.flatMap(\.notes) where note.changesConnection && !note.isForSSHOnly {
            if told.insert(note).inserted { prompts.warn("\(note)") }
        }
        hops = try configurations.map { configuration throws(SSHConfigurationError) in
            Hop(
                configuration: configuration,
                policy: try HostKeyPolicy(
                    configuration,
                    ask: configuration.authentication.isBatch ? nil : prompts.hostKey,
                    warn: prompts.warn
                )
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

    /// The hosts on the way and the destination, nearest first. As in `ssh`, the first host of a ProxyJump list is reached as its own
    /// configuration says, its ProxyJump included; each later one through the one before it.
    ///
    /// - Parameter stack: what is being resolved, to find a circle.
    private static func chain(
        to destination: Destination,
        _ arguments: SSHArguments,
        below stack: [String]
    ) throws(SSHConfigurationError) -> [SSHClientConfiguration] {
        let configuration = try SSHClientConfiguration(resolving: destination, arguments: arguments)
        let name = "\(configuration.user)@\(KnownHosts.name(host: configuration.hostName, port: configuration.port))"
        guard !stack.contains(name) else {
            throw SSHConfigurationError("ProxyJump goes in a circle: \((stack + [name]).joined(separator: " → "))")
        }
        guard let nearest = configuration.proxyJump.first else { return [configuration] }
        var chain = try chain(to: nearest, arguments.forJumpHosts, below: stack + [name])
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
        // Nobody knows yet which keys the agent has; without one, the files are all there is.
        guard configuration.agentSocket == nil else { return limits }
        let files = configuration.existingIdentityFiles.compactMap { try? PrivateKeyFile(path: $0) }
        let unusable = files.compactMap { file in
            capabilities.limit(forUserKey: file.isRSA ? "ssh-rsa" : file.publicKey?.algorithm, name: file.name)
        }
        if !files.isEmpty && unusable.count == files.count { limits += unusable }
        return limits
    }

    /// The same login, which asks nobody: for a further session while the first one is in use. It fails where a question would
    /// be needed.
    package var withoutQuestions: SSHLogin {
        var login = self
        login.prompts = Prompts(warn: prompts.warn)
        for index in login.hops.indices { login.hops[index].policy = login.hops[index].policy.withoutQuestions }
        return login
    }

    /// Why the destination's pinned key must not be accepted all the same; nil: nothing speaks against it.
    var revocation: HostKeyError? { hops.last?.policy.pinnedRevocation }

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
        var way = ""
        for hop in hops {
            let jump = client
            way += "/" + KnownHosts.name(host: hop.configuration.hostName, port: hop.configuration.port)
            let warning = { [prompts] (error: SSHError) in prompts.warn("\(error.message); trying again") }
            client = try await DialLimit.shared.runPatiently(to: way, retrying: warning) { () throws(SSHError) in
                try await connect(hop, through: jump, on: loop)
            }
        }
        guard let client else { throw SSHError(.connectionFailed, "there is no host to connect to") }
        return client
    }

    private func connect(
        _ hop: Hop,
        through jump: SSHClient?,
        on loop: EventLoop
    ) async throws(SSHError) -> SSHClient {
        guard let pinned = hop.policy.pinned else {
            return try await connect(hop, through: jump, HostKeyCheck(policy: hop.policy), on: loop)
        }
        // A fingerprint does not tell its key's type: a server that shows another of its keys is asked for the next one.
        var types = sessionConfiguration(hop.configuration).hostKeyAlgorithms(
            preferring: hop.policy.preferredAlgorithms
        )
        var refusal: SSHError?
        while true {
            let shown = Lock<HostKey?>(nil)
            let verifier = HostKeyCheck(policy: hop.policy, types: types, shown: shown)
            do throws(SSHError) {
                return try await connect(hop, through: jump, verifier, on: loop)
            } catch {
                // It has no key of the types that are left: the first one was the answer.
                if let refusal, error.code == .negotiationFailed { throw refusal }
                refusal = refusal ?? error
                guard error.code == .hostKeyRefused, let key = shown.withLock({ $0 }), key.fingerprint != pinned,
                    let type = types.firstIndex(where: { HostKeyCheck.type($0) == key.algorithm })
                else { throw error }
                let first = HostKeyCheck.type(types[type])
                types.removeAll { HostKeyCheck.type($0) == first }
                guard types.contains(where: { EngineCapabilities.current.canVerify(hostKey: HostKeyCheck.type($0)) })
                else {
                    throw error
                }
            }
        }
    }

    private func connect(
        _ hop: Hop,
        through jump: SSHClient?,
        _ verifier: HostKeyCheck,
        on loop: EventLoop
    ) async throws(SSHError) -> SSHClient {
        var configuration = sessionConfiguration(hop.configuration)
        if let types = verifier.types { configuration.hostKeyAlgorithms = types }
        if let jump {
            return try await jump.connect(
                host: hop.configuration.hostName,
                port: hop.configuration.port,
                configuration: configuration,
                hostKeyVerifier: verifier
            )
        }
        return try await SSHClient.connect(
            over: Self.dial(hop.configuration, on: loop),
            configuration: configuration,
            hostKeyVerifier: verifier,
            on: loop
        )
    }

    /// Connects over TCP, to whichever of the host's addresses answers first (RFC 8305).
    private static func dial(
        _ configuration: SSHClientConfiguration,
        on loop: EventLoop
    ) async throws(SSHError) -> LoopBound<ByteStream> {
        let (host, port) = (configuration.hostName, configuration.port)
        do {
            let addresses = try await Resolver.resolve(host: host, port: port).filter { address in
                switch configuration.addressFamily {
                case .any: true
                case .inet: !address.isIPv6
                case .inet6: address.isIPv6
                }
            }
            guard !addresses.isEmpty else {
                throw SSHError(
                    .connectionFailed,
                    "'\(host)' has no address of the family \(configuration.addressFamily.rawValue) (AddressFamily)"
                )
            }
            var local: [SocketAddress] = []
            if let text = configuration.bindAddress { local = try await Resolver.resolve(host: text, port: 0) }
            return try await HappyEyeballs.connect(
                to: addresses,
                from: local,
                on: loop,
                timeout: configuration.connectTimeout ?? .seconds(10)
            ) { socket in
                socket.detectDeadPeer(unacknowledgedFor: .seconds(30))
                return LoopBound<ByteStream>(socket, on: loop)
            }
        } catch let error as SSHError {
            throw error
        } catch let error as StreamError {
            throw SSHError(error.code == .timedOut ? .timedOut : .connectionFailed, "\(error)")
        } catch {
            throw SSHError(.connectionFailed, "\(error)")
        }
    }

    /// The hosts on the way and the destination, for tests.
    var hostNames: [String] { hops.map(\.configuration.hostName) }

    /// What the destination's session is made with, for tests.
    var lastSession: SSHSessionConfiguration { sessionConfiguration(configuration) }

    private func sessionConfiguration(_ configuration: SSHClientConfiguration) -> SSHSessionConfiguration {
        var credentials: [SSHCredential] = []
        if let agent = configuration.agentSocket { credentials.append(.agent(socketPath: agent)) }
        credentials += configuration.certificateFiles.map(SSHCredential.certificateFile)
        credentials += configuration.existingIdentityFiles.map(SSHCredential.keyFile)
        var session = SSHSessionConfiguration(user: configuration.user, credentials: credentials)
        session.identitiesOnly = configuration.identitiesOnly
        session.authentication = configuration.authentication
        if !configuration.authentication.isBatch {
            session.passphrase = prompts.passphrase
            session.authenticationPrompt = prompts.authentication
        }
        if let timeout = configuration.connectTimeout { session.handshakeTimeout = timeout }
        if let interval = configuration.serverAliveInterval {
            session.keepAlive = .init(interval: interval, count: configuration.serverAliveCountMax)
        }
        return session
    }
}

/// known_hosts and StrictHostKeyChecking, as a session asks them.
private struct HostKeyCheck: HostKeyVerifier {
    let policy: HostKeyPolicy
    /// The only algorithms to ask for; nil: all.
    var types: [String]?
    /// What the server showed, even if it was refused.
    var shown = Lock<HostKey?>(nil)

    var preferredAlgorithms: [String] { policy.preferredAlgorithms }

    var limits: [EngineLimit] { policy.limits }

    func check(_ key: HostKey) async throws {
        shown.withLock { $0 = key }
        try await policy.check(key)
    }

    /// The type of key that signs with an algorithm (RFC 8332).
    static func type(_ algorithm: String) -> String { algorithm.hasPrefix("rsa-sha2-") ? "ssh-rsa" : algorithm }
}
