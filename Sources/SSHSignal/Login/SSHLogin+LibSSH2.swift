import Platform
import Streams

/// The login with libssh2: one session inside the other where there are jump hosts.
extension SSHLogin {
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
        for (index, hop) in hops.enumerated() {
            let objection = index == hops.count - 1 ? objection : nil
            let jump = client
            way += "/" + KnownHosts.name(host: hop.configuration.hostName, port: hop.configuration.port)
            let warning = { [prompts] (error: SSHError) in prompts.warn("\(error.message); trying again") }
            client = try await DialLimit.shared.runPatiently(to: way, retrying: warning) { () throws(SSHError) in
                try await connect(hop, index, through: jump, objection, on: loop)
            }
        }
        guard let client else { throw SSHError(.connectionFailed, "there is no host to connect to") }
        return client
    }

    private func connect(
        _ hop: Hop,
        _ index: Int,
        through jump: SSHClient?,
        _ objection: (@Sendable (HostKey) -> String?)?,
        on loop: EventLoop
    ) async throws(SSHError) -> SSHClient {
        guard let pinned = hop.policy.pinned else {
            let verifier = HostKeyCheck(policy: hop.policy, objection: objection)
            return try await connect(hop, index, through: jump, verifier, on: loop)
        }
        // A fingerprint does not tell its key's type: a server that shows another of its keys is asked for the next
        // one.
        var types = sessionConfiguration(hop.configuration, isDestination: hop.isDestination).hostKeyAlgorithms(
            preferring: hop.policy.preferredAlgorithms
        )
        var refusal: SSHError?
        while true {
            let shown = Lock<HostKey?>(nil)
            let verifier = HostKeyCheck(policy: hop.policy, objection: objection, types: types, shown: shown)
            do throws(SSHError) {
                return try await connect(hop, index, through: jump, verifier, on: loop)
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
        _ index: Int,
        through jump: SSHClient?,
        _ verifier: HostKeyCheck,
        on loop: EventLoop
    ) async throws(SSHError) -> SSHClient {
        onProgress?(LoginProgress(.began(hop: index)))
        var configuration = sessionConfiguration(hop.configuration, isDestination: hop.isDestination)
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
            over: dial(hop.configuration, on: loop),
            configuration: configuration,
            hostKeyVerifier: verifier,
            on: loop
        )
    }

    /// Connects over TCP, to whichever of the host's addresses answers first (RFC 8305).
    private func dial(
        _ configuration: SSHClientConfiguration,
        on loop: EventLoop
    ) async throws(SSHError) -> LoopBound<ByteStream> {
        let (host, family) = (configuration.hostName, configuration.addressFamily)
        var options = Dialer.Options(
            timeout: configuration.connectTimeout ?? .seconds(10),
            socket: SocketOptions(unacknowledgedLimit: SSHClient.deadPeerLimit)
        )
        options.repeatDelay = Dialer.Options.pathRepeatDelay
        if let text = configuration.bindAddress {
            do {
                options.locals = try await Resolver.resolve(host: text, port: 0)
            } catch {
                throw SSHError(.connectionFailed, "\(error)")
            }
        }
        let otherFamily = StreamError(
            .unreachable,
            "'\(host)' has no address of the family \(family.rawValue) (AddressFamily)"
        )
        let check: @Sendable (IPAddress) -> StreamError? = { address in
            switch family {
            case .any: nil
            case .inet: address.isIPv4 ? nil : otherFamily
            case .inet6: address.isIPv4 ? otherFamily : nil
            }
        }
        guard let onProgress else {
            return try await SSHClient.dial(.host(host, port: configuration.port), options, on: loop, check: check)
        }
        let addresses: [SocketAddress]
        do {
            addresses = try await Resolver.resolve(host: host, port: configuration.port)
        } catch {
            throw SSHError((error as? StreamError)?.code == .timedOut ? .timedOut : .connectionFailed, "\(error)")
        }
        onProgress(LoginProgress(.passed(.resolved(addresses.map(\.description)))))
        let lower = try await SSHClient.dial(.addresses(addresses), options, on: loop, check: check)
        let peer = try? await loop.execute { lower.withValue(\.peerDescription) }
        onProgress(LoginProgress(.passed(.connected(peer ?? host))))
        return lower
    }

    /// What the sessions on the way and the destination's are made with, for tests.
    var sessions: [SSHSessionConfiguration] {
        hops.map { sessionConfiguration($0.configuration, isDestination: $0.isDestination) }
    }

    /// What the destination's session is made with, for tests.
    var lastSession: SSHSessionConfiguration { sessionConfiguration(configuration, isDestination: true) }

    private func sessionConfiguration(
        _ configuration: SSHClientConfiguration,
        isDestination: Bool
    ) -> SSHSessionConfiguration {
        var credentials: [SSHCredential] = []
        if let agent = configuration.agentSocket { credentials.append(.agent(socketPath: agent)) }
        credentials += configuration.certificateFiles.map(SSHCredential.certificateFile)
        credentials += configuration.existingIdentityFiles.map(SSHCredential.keyFile)
        var session = SSHSessionConfiguration(user: configuration.user, credentials: credentials)
        session.identitiesOnly = configuration.identitiesOnly
        session.acceptedKeys = configuration.acceptedKeys
        session.use(configuration)
        session.warn = { [prompts] in prompts.warnOnce($0) }
        if let onProgress { session.onStep = { onProgress(LoginProgress(.passed($0))) } }
        if configuration.showsBanner { session.banner = prompts.banner(of: configuration.namedHost) }
        session.authentication = configuration.authentication
        session.offersKeysAtOnce = offersKeysAtOnce
        if !configuration.authentication.isBatch {
            session.passphrase = prompts.passphrase
            if let ask = prompts.authentication {
                session.authenticationPrompt = { question in
                    var question = question
                    question.isFromDestination = isDestination
                    return await ask(question)
                }
            }
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
    /// Why the machine with a key is not to be logged in to; nil where it may.
    var objection: (@Sendable (HostKey) -> String?)?
    /// The only algorithms to ask for; nil: all.
    var types: [String]?
    /// What the server showed, even if it was refused.
    var shown = Lock<HostKey?>(nil)

    var preferredAlgorithms: [String] { policy.preferredAlgorithms }

    var limits: [EngineLimit] { policy.limits }

    func check(_ key: HostKey) async throws {
        shown.withLock { $0 = key }
        // First: nobody is asked about it, and it is not recorded.
        if let text = objection?(key) { throw SSHError(.hostKeyRefused, text) }
        try await policy.check(key)
    }

    /// The type of key that signs with an algorithm (RFC 8332).
    static func type(_ algorithm: String) -> String { algorithm.hasPrefix("rsa-sha2-") ? "ssh-rsa" : algorithm }
}
