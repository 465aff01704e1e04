import Logging
import MeshIdentity
import MeshPaths
import MeshPolicy
import Platform
import Streams

// Another configuration or another credential for a node that runs.
extension Node {
    /// Reads configuration and credential again. New streams are decided by the new ones, live streams are decided
    /// again; connections keep the certificate they were made with. Listeners that are new are bound, those that are
    /// gone are closed, and what they have accepted goes on; the others are not touched. While the node drains, it
    /// opens none.
    ///
    /// - Returns: The listeners that accept connections where they did not before.
    /// - Throws: What is wrong with either, or the listener that cannot be had; the node then goes on as before, with
    ///   the credential and the revocations that there are now, if those are good.
    @discardableResult
    public func reload() async throws -> [ReadyListener] {
        try await readInTurn { true }
    }

    /// - Parameter isNeeded: Asked when its turn has come.
    func readInTurn(where isNeeded: @escaping @Sendable () -> Bool) async throws -> [ReadyListener] {
        let listeners = Lock<[ReadyListener]>([])
        do {
            try await inTurn { [self] in
                guard isNeeded() else { return }
                let ready = try await readAgain()
                listeners.withLock { $0 = ready }
            }
        } catch {
            // The credential may be another one all the same.
            await takeRefusedDirectory()
            throw error
        }
        await takeRefusedDirectory()
        return listeners.withLock { $0 }
    }

    /// One after the other: a signal, the clock and the directory may ask at once.
    func inTurn(_ body: @escaping @Sendable () async throws -> Void) async throws {
        let task = state.withLock { state in
            let previous = state.reload
            let task = Task {
                _ = await previous?.result
                try await body()
            }
            state.reload = task
            return task
        }
        try await task.value
    }

    /// Reloads when the configuration file or the credential has changed since it was read. A broken one is reported
    /// once.
    ///
    /// - Returns: As ``reload()``.
    @discardableResult
    public func reloadIfChanged() async -> [ReadyListener] {
        guard hasChanged else { return [] }
        do {
            return try await readInTurn { [self] in hasChanged }
        } catch {
            logger.error("the change was not taken over: \(error)")
            return []
        }
    }

    /// Whether the files are others than those that were read last, by whomever it was asked.
    private var hasChanged: Bool {
        let stamp = state.withLock { Self.stamp($0.configuration, configurationFile) }
        // A process that takes over reads the change itself.
        return state.withLock { $0.stamp != stamp && $0.change != .handingOver }
    }

    private func readAgain() async throws -> [ReadyListener] {
        let (old, workers) = state.withLock { ($0.configuration, $0.workers) }
        let stamp = Self.stamp(old, configurationFile)
        do {
            return try await readAgain(old, workers, stamp)
        } catch {
            // Told once: whoever asks next has to find something new. What comes of a handover is not known yet.
            state.withLock { if $0.change != .handingOver { $0.stamp = stamp } }
            await takeCredential(to: workers)
            throw error
        }
    }

    private func readAgain(
        _ old: NodeConfiguration,
        _ workers: [LoopBound<Worker>],
        _ stamp: FileStamp
    ) async throws -> [ReadyListener] {
        let written = try configurationFile.map { try NodeConfiguration.check($0) } ?? old
        let isSame = state.withLock { $0.stamp == stamp } && written == old
        // Those servers stay where they are until the restart: what is in effect is where they are.
        let configuration = written.withServices(of: old)
        guard !workers.isEmpty else { throw StreamError(.closed, "the node has not started") }
        let identity = try await identity(for: configuration)
        let credential = identity.credential
        let accessLog = try accessLog(for: configuration)
        let current = try state.withLock { try $0.beginReload() }
        defer { state.withLock { if $0.change == .reload { $0.change = nil } } }

        var prepared: PreparedListeners?
        var heartbeat: LoopBound<CaptureHeartbeat>?
        var addresses = state.withLock { $0.addresses }
        if let current {
            try mark(for: configuration)
            prepared = try await prepare(configuration, beside: current, workers)
            addresses = prepared?.addresses ?? addresses
        }
        do {
            if Self.heartbeatPorts(configuration) != Self.heartbeatPorts(old), current != nil {
                heartbeat = try await self.heartbeat(for: configuration)
            }
            let snapshot = try NodeSnapshot(
                configuration: configuration,
                directory: directory(for: configuration, credential),
                identity: identity,
                listenerAddresses: addresses,
                serviceAddresses: await self.addresses(of: state.withLock { $0.services }),
                accessLog: accessLog,
                metrics: transportMetrics(for: configuration),
                keyRings: keyRings,
                after: try await self.snapshot(of: workers),
                warn: { [logger] in logger.warning("\($0)") }
            )
            try await hand(snapshot, to: workers)
        } catch {
            await stop(heartbeat)
            if let prepared { await close(prepared.opening) }
            throw error
        }
        let (isOpen, unused) = state.withLock { state in
            state.configuration = configuration
            state.stamp = stamp
            // It may drain since.
            guard let prepared, state.isListening else { return (false, heartbeat) }
            state.listeners = prepared.all
            state.addresses = addresses
            state.captures += Self.captures(of: configuration).filter { !state.captures.contains($0) }
            guard Self.heartbeatPorts(configuration) != Self.heartbeatPorts(old) else { return (true, nil) }
            defer { state.heartbeat = heartbeat }
            return (true, state.heartbeat)
        }
        // Before anything that takes time: until then, the listeners that are replaced go on accepting.
        if let prepared {
            if isOpen { try await open(prepared) } else { await close(prepared.opening) }
        }
        await stop(unused)
        await use(accessLog)
        tellWhatNeedsRestart(old, written)
        if !old.connections.multipath { warnOfPlainTCP(configuration) }
        for warning in configuration.warnings where !old.warnings.contains(warning) { logger.warning("\(warning)") }
        logger.notice(
            isSame ? "reloaded: nothing has changed" : "reloaded",
            metadata: ["certificate until": "\(describe(time: credential.notAfter))"]
        )
        guard isOpen, let prepared else { return [] }
        for listener in prepared.removed + prepared.replaced where !prepared.all.contains(where: listener.isSamePlace) {
            logger.notice("listener '\(listener.name)' on \(listener.address) is closed; its connections go on")
        }
        return prepared.ready
    }

    /// What holds now; the same for all of them.
    func snapshot(of workers: [LoopBound<Worker>]) async throws -> NodeSnapshot {
        let first = workers[0]
        return try await first.loop.execute { first.withValue { $0.snapshot } }
    }

    /// For a reload that has failed. Whatever is wrong with another file must not keep a revoked peer in, nor the
    /// node's own certificate from being renewed: what the credential directory has now holds beside what is in effect.
    private func takeCredential(to workers: [LoopBound<Worker>]) async {
        guard !workers.isEmpty else { return }
        do {
            let present = try await self.snapshot(of: workers)
            let identity = try await identity(for: present.configuration)
            let credential = identity.credential
            // Another identity is another node: all of its configuration has to be read.
            guard credential.id == present.credential.id, !identity.isSame(as: present.identity) else { return }
            let snapshot = try NodeSnapshot(
                configuration: present.own,
                directory: directory(for: present.own, credential),
                identity: identity,
                listenerAddresses: state.withLock { $0.addresses },
                serviceAddresses: await addresses(of: state.withLock { $0.services }),
                accessLog: present.accessLog,
                metrics: present.configuration.connections.metrics,
                keyRings: keyRings,
                keeping: present,
                warn: { [logger] in logger.warning("\($0)") }
            )
            try await hand(snapshot, to: workers)
            logger.notice(
                "the credential was taken over, and nothing else",
                metadata: ["certificate until": "\(describe(time: credential.notAfter))"]
            )
        } catch {
            logger.warning("the credential stays as it was: \(error)")
        }
    }

    /// Where the servers beside the listeners really listen, by name: the loop guard must know ports that the kernel
    /// has chosen.
    func addresses(of services: [Service]) async -> [String: NodeConfiguration.BindAddress] {
        var addresses: [String: NodeConfiguration.BindAddress] = [:]
        for service in services {
            let local = try? await service.server.loop.execute { service.server.withValue { $0.localAddress } }
            guard let local, let address = local.address else { continue }
            addresses[service.name] = NodeConfiguration.BindAddress(address: address, port: local.port)
        }
        return addresses
    }

    private func stop(_ heartbeat: LoopBound<CaptureHeartbeat>?) async {
        guard let heartbeat else { return }
        try? await heartbeat.loop.execute { heartbeat.withValue { $0.stop() } }
    }

    /// Gives every loop what holds from now on.
    func hand(_ snapshot: NodeSnapshot, to workers: [LoopBound<Worker>]) async throws {
        if let listener = snapshot.configuration.listeners.first(where: { $0.protocol == .dns }) {
            let (blocks, lifetime) = (listener.names.blocks, listener.names.lifetime)
            names.prepare(MeshZone.fixedNames(snapshot.rules), in: blocks, lifetime: lifetime)
        }
        for worker in workers {
            try await worker.loop.execute { worker.withValue { $0.take(snapshot) } }
        }
        try await lookForKeys()
    }

    static func stamp(_ configuration: NodeConfiguration, _ file: String?) -> FileStamp {
        let policyFiles = configuration.policy?.compactMap(\.importedFrom) ?? []
        let names = ["key.pem", "cert-chain.pem", "root-cert.pem", "ca-crl.pem"]
        let users = configuration.listeners.compactMap(\.users) + Set(policyFiles).sorted()
        let directories = configuration.listeners.flatMap { $0.gateway?.credentials ?? $0.ingress.credentials }
        let served = directories.flatMap { directory in
            names.prefix(2).map { "\(directory)/\($0)" }
        }
        let tokens = configuration.listeners.flatMap { $0.tokens?.watchedFiles ?? [] }
        let credential = configuration.identity.directory.map { path in names.map { "\(path)/\($0)" } } ?? []
        let own = credential + (file.map { [$0] } ?? [])
        let others = configuration.trust.map(\.bundle) + configuration.endpoints.flatMap(\.watchedFiles)
        return FileStamp(of: own + users + tokens + served + others)
    }
}

extension NodeConfiguration {
    fileprivate func withServices(of other: NodeConfiguration) -> NodeConfiguration {
        var configuration = self
        (configuration.admin, configuration.adminSocket) = (other.admin, other.adminSocket)
        configuration.metrics = other.metrics
        return configuration
    }
}

extension Node.NamedListener {
    /// For whoever reads the log: that it does something else now is no other listener.
    fileprivate func isSamePlace(_ other: Node.NamedListener) -> Bool {
        name == other.name && address == other.address
    }
}

extension Node.State {
    /// What must not happen to the listeners at the same time.
    enum ListenerChange: Hashable {
        case reload
        /// Another process has them, and is about to be ready.
        case handingOver
    }

    /// Whether the node still listens: it has no heir, and does not drain.
    var isListening: Bool { drain == nil && !hasHeir }

    /// The listeners, which nobody else changes now; nil when the node does not listen any more.
    mutating func beginReload() throws(StreamError) -> [Node.NamedListener]? {
        guard isListening else { return nil }
        guard change == nil else {
            throw StreamError(.limit, "another process takes over right now: it reads the configuration itself")
        }
        change = .reload
        return listeners
    }

    mutating func beginHandingOver() throws(StreamError) -> [Node.NamedListener] {
        guard isListening else { throw StreamError(.draining, "the node does not listen any more") }
        guard change == nil else { throw StreamError(.limit, "a reload is under way: try again") }
        change = .handingOver
        return listeners
    }
}
