public import Logging
import MeshIdentity
public import Streams
import Synchronization

/// The daemon: listens as its configuration says, and carries streams between its listeners and its peers.
///
/// ```
/// hbone listener ─→ InboundStreams  ─┬─→ Dialer ─→ a service of this machine
/// tcp listener   ─→ OutboundStreams ─┴─→ PeerPaths ─→ another node
/// ```
///
/// Safe to use from any task. Each event loop has a ``Worker``; the loops share an immutable snapshot.
public final class Node: Sendable {
    /// A listener that accepts connections.
    public struct ReadyListener: Hashable, Sendable {
        public var name: String
        public var address: SocketAddress
    }

    private struct State {
        var configuration: NodeConfiguration
        var addresses: [String: NodeConfiguration.BindAddress] = [:]
        var listeners: [LoopBound<Listener>] = []
        var workers: [LoopBound<Worker>] = []
        var stamp: FileStamp
    }

    private let group: EventLoopGroup
    private let logger: Logger
    private let state: Mutex<State>
    /// The file to read again on a reload; nil when the configuration was made by a program.
    private let configurationFile: String?

    /// - Parameters:
    ///   - configuration: Validated.
    ///   - configurationFile: Read again by ``reload()``.
    ///   - loops: Event loops, one thread each.
    public init(
        _ configuration: NodeConfiguration,
        configurationFile: String? = nil,
        loops: Int,
        logger: Logger
    ) {
        group = EventLoopGroup(count: loops)
        self.logger = logger
        self.configurationFile = configurationFile
        state = Mutex(State(configuration: configuration, stamp: Self.stamp(configuration, configurationFile)))
    }

    /// Loads the credential and starts every listener.
    ///
    /// - Throws: ``MeshIdentity/IdentityError`` for the credential, ``Streams/StreamError`` for a listener; nothing listens then.
    public func start() async throws -> [ReadyListener] {
        let configuration = state.withLock { $0.configuration }
        let credential = try CredentialDirectory(configuration.identity).load()
        let warn: @Sendable (String) -> Void = { [logger] in logger.warning("\($0)") }
        var snapshot = try NodeSnapshot(configuration: configuration, credential: credential, warn: warn)
        var workers: [LoopBound<Worker>] = []
        for loop in group.loops {
            let (first, logger) = (snapshot, logger)
            workers.append(
                try await loop.execute { LoopBound(try Worker(on: loop, snapshot: first, logger: logger), on: loop) }
            )
        }
        var ready: [ReadyListener] = []
        var listeners: [LoopBound<Listener>] = []
        do {
            for listener in configuration.listeners {
                let bound = try await listen(listener, workers)
                listeners.append(bound)
                ready.append(ReadyListener(name: listener.name, address: try await localAddress(of: bound)))
            }
        } catch {
            await close(listeners)
            throw error
        }
        // Port 0 has become a real one, which the loop guard must know.
        let addresses = Dictionary(
            ready.compactMap { listener in
                listener.address.address.map {
                    (listener.name, NodeConfiguration.BindAddress(address: $0, port: listener.address.port))
                }
            },
            uniquingKeysWith: { first, _ in first }
        )
        snapshot = try NodeSnapshot(
            configuration: configuration,
            credential: credential,
            listenerAddresses: addresses,
            warn: warn
        )
        try await hand(snapshot, to: workers)
        state.withLock { state in
            state.workers = workers
            state.listeners = listeners
            state.addresses = addresses
        }
        logger.info(
            "started",
            metadata: ["identity": "\(credential.id)", "loops": "\(group.loops.count)", "listeners": "\(ready.count)"]
        )
        return ready
    }

    /// Reads configuration and credential again. New streams are decided by the new ones, live streams are decided again;
    /// connections keep the certificate they were made with. Listeners stay as they are: changing them takes a restart.
    ///
    /// - Throws: What is wrong with either; the node then goes on as before.
    public func reload() async throws {
        let (old, addresses, workers) = state.withLock { ($0.configuration, $0.addresses, $0.workers) }
        let stamp = Self.stamp(old, configurationFile)
        let configuration = try configurationFile.map { try NodeConfiguration.load($0) } ?? old
        let credential = try CredentialDirectory(configuration.identity).load()
        if Set(configuration.listeners.map(\.withoutPosition)) != Set(old.listeners.map(\.withoutPosition)) {
            logger.warning("'listeners' have changed in \(configuration.file): that takes effect with a restart only")
        }
        let snapshot = try NodeSnapshot(
            configuration: configuration,
            credential: credential,
            listenerAddresses: addresses,
            warn: { [logger] in logger.warning("\($0)") }
        )
        try await hand(snapshot, to: workers)
        state.withLock { state in
            state.configuration = configuration
            state.stamp = stamp
        }
        logger.notice("reloaded", metadata: ["certificate until": "\(credential.notAfter)"])
    }

    /// Reloads when the configuration file or the credential has changed since it was read. A broken one is reported once.
    public func reloadIfChanged() async {
        let stamp = state.withLock { Self.stamp($0.configuration, configurationFile) }
        guard state.withLock({ $0.stamp != stamp }) else { return }
        do {
            try await reload()
        } catch {
            state.withLock { $0.stamp = stamp }
            logger.error("the change was not taken over: \(error)")
        }
    }

    /// Accepts nothing new, lets live streams end for up to `deadline`, then cuts them and stops.
    public func drain(deadline: Duration) async {
        let (listeners, workers) = state.withLock { state in
            defer { state.listeners = [] }
            return (state.listeners, state.workers)
        }
        await close(listeners)
        await withTaskGroup(of: Void.self) { group in
            for worker in workers {
                group.addTask {
                    await withCheckedContinuation { continuation in
                        worker.loop.submit {
                            worker.withValue { $0.drain(deadline: deadline) { continuation.resume() } }
                        }
                    }
                }
            }
        }
        await group.shutDown()
    }

    // MARK: -

    private func listen(
        _ listener: NodeConfiguration.Listener,
        _ workers: [LoopBound<Worker>]
    ) async throws -> LoopBound<Listener> {
        let address = try SocketAddress(ip: listener.bind.address.description, port: listener.bind.port)
        let (first, loops) = (group.loops[0], group.loops)
        return try await first.execute {
            LoopBound(
                try Listener(bind: address, on: first, spreadOver: loops) { socket in
                    workers.first { $0.loop === socket.loop }?.withValue { $0.accept(socket, by: listener) }
                },
                on: first
            )
        }
    }

    private func localAddress(of listener: LoopBound<Listener>) async throws -> SocketAddress {
        try await listener.loop.execute { listener.withValue(\.localAddress) }
    }

    private func close(_ listeners: [LoopBound<Listener>]) async {
        for listener in listeners {
            try? await listener.loop.execute { listener.withValue { $0.close() } }
        }
    }

    private func hand(_ snapshot: NodeSnapshot, to workers: [LoopBound<Worker>]) async throws {
        for worker in workers {
            try await worker.loop.execute { worker.withValue { $0.take(snapshot) } }
        }
    }

    private static func stamp(_ configuration: NodeConfiguration, _ file: String?) -> FileStamp {
        let names = ["key.pem", "cert-chain.pem", "root-cert.pem"]
        return FileStamp(of: names.map { "\(configuration.identity)/\($0)" } + (file.map { [$0] } ?? []))
    }
}

extension NodeConfiguration.Listener {
    /// Where it stands in the file does not make it another listener.
    fileprivate var withoutPosition: NodeConfiguration.Listener {
        var listener = self
        listener.position = nil
        return listener
    }
}
