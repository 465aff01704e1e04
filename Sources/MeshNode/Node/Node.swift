import H2Transport
public import Logging
import MeshIdentity
import MeshPaths
import Platform
public import Streams
import YAML

/// The daemon: listens as its configuration says, and carries streams between its listeners and its peers.
///
/// ```
/// hbone listener ─→ HBONEFront ─┬─→ StreamPlan ─→ StreamOpener ─┬─→ Dialer ─→ a service of this machine
/// tcp listener   ─→ TCPFront   ─┤                               └─→ PeerPaths ─→ another node
/// another one    ─→ its front  ─┘
/// ```
///
/// Safe to use from any task. Each event loop has a `Worker`; the loops share an immutable snapshot.
public final class Node: Sendable {
    /// A listener that accepts connections.
    public struct ReadyListener: Hashable, Sendable {
        /// As the configuration names it.
        public var name: String
        /// Where it listens; the port is the kernel's choice where 0 was asked for.
        public var address: SocketAddress
    }

    struct NamedListener {
        let name: String
        let listener: LoopBound<Listener>
        /// Of a `dns` listener.
        var datagrams: LoopBound<DatagramSocket>?

        /// On its loop.
        func close() {
            listener.withValue { $0.close() }
            datagrams?.withValue { $0.close() }
        }
    }

    struct State {
        var configuration: NodeConfiguration
        var addresses: [String: NodeConfiguration.BindAddress] = [:]
        var listeners: [NamedListener] = []
        var workers: [LoopBound<Worker>] = []
        var stamp: FileStamp
        /// Ends when every worker has drained.
        var drain: Task<Void, Never>?
        var takeover: LoopBound<TakeoverOffer>?
        var heartbeat: LoopBound<CaptureHeartbeat>?
        /// Those of the listeners that the node has started with.
        var captures: [NodeConfiguration.Capture] = []
        var accessLog: AccessLog?
        /// Metrics and administration.
        var services: [Service] = []
        var control = NodeControl()
    }

    let group: EventLoopGroup
    let logger: Logger
    let stripes = StripeDirectory()
    /// What connections count, where somebody asks.
    let registry = MetricsRegistry()
    let transportMetrics: H2Metrics
    /// The addresses that names of the mesh have.
    private let names: VirtualNames?
    let state: Lock<State>
    /// The file to read again on a reload; nil when the configuration was made by a program.
    private let configurationFile: String?

    /// - Parameters:
    ///   - configuration: Validated.
    ///   - configurationFile: Read again by ``reload()``.
    ///   - loops: Event loops, one thread each.
    ///   - logger: Told of what the node does, and of what fails.
    public init(
        _ configuration: NodeConfiguration,
        configurationFile: String? = nil,
        loops: Int,
        logger: Logger
    ) {
        group = EventLoopGroup(count: loops)
        transportMetrics = H2Metrics(factory: registry)
        self.logger = logger
        self.configurationFile = configurationFile
        names = configuration.listeners.contains { $0.protocol == .dns } ? VirtualNames() : nil
        state = Lock(State(configuration: configuration, stamp: Self.stamp(configuration, configurationFile)))
    }

    /// Loads the credential and starts every listener.
    ///
    /// - Parameter inherited: Sockets that listen already. Each goes to the listener that it fits; the others are
    ///   closed.
    /// - Throws: ``MeshIdentity/IdentityError`` for the credential, ``Streams/StreamError`` for a listener; nothing
    ///   listens then.
    public func start(adopting inherited: InheritedSockets = InheritedSockets()) async throws -> [ReadyListener] {
        let configuration = state.withLock { $0.configuration }
        let credential = try CredentialDirectory(configuration.identity).load()
        let warn: @Sendable (String) -> Void = { [logger] in logger.warning("\($0)") }
        var snapshot = try NodeSnapshot(configuration: configuration, credential: credential, warn: warn)
        let accessLog = try accessLog(for: configuration)
        var workers: [LoopBound<Worker>] = []
        for (number, loop) in group.loops.enumerated() {
            let place = (number, group.loops.count)
            let (first, stripes, names, logger) = (snapshot, stripes, names, logger)
            workers.append(
                try await loop.execute {
                    LoopBound(
                        try Worker(
                            on: loop,
                            snapshot: first,
                            stripes: stripes,
                            names: names,
                            place: place,
                            logger: logger
                        ),
                        on: loop
                    )
                }
            )
        }
        if configuration.listeners.contains(where: { $0.capture?.node == .mark }) {
            try OutgoingMark.set(CaptureRules.ownMark)
        }
        let services = try await startServices(configuration, inherited)
        let bound: ([NamedListener], [ReadyListener])
        do {
            bound = try await listen(configuration.sockets, workers, inherited)
        } catch {
            await stop(services)
            throw error
        }
        let (listeners, ready) = bound
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
            accessLog: accessLog,
            metrics: transportMetrics(for: configuration),
            warn: warn
        )
        try await hand(snapshot, to: workers)
        for address in inherited.closeRest() {
            logger.notice(
                "no listener of the configuration uses the inherited socket; it is closed",
                metadata: ["address": "\(address)"]
            )
        }
        let heartbeat = try await heartbeat(for: configuration)
        state.withLock { state in
            state.workers = workers
            state.heartbeat = heartbeat
            state.captures = Self.captures(of: configuration)
            state.listeners = listeners
            state.addresses = addresses
            state.accessLog = accessLog
            state.services = services
        }
        logger.info(
            "started",
            metadata: ["identity": "\(credential.id)", "loops": "\(group.loops.count)", "listeners": "\(ready.count)"]
        )
        return ready
    }

    /// Reads configuration and credential again. New streams are decided by the new ones, live streams are decided
    /// again; connections keep the certificate they were made with. Listeners stay as they are: changing them takes a
    /// restart.
    ///
    /// - Throws: What is wrong with either; the node then goes on as before.
    public func reload() async throws {
        let (old, addresses, workers) = state.withLock { ($0.configuration, $0.addresses, $0.workers) }
        let stamp = Self.stamp(old, configurationFile)
        let configuration = try configurationFile.map { try NodeConfiguration.load($0) } ?? old
        guard !workers.isEmpty else { throw StreamError(.closed, "the node has not started") }
        let credential = try CredentialDirectory(configuration.identity).load()
        if Set(configuration.listeners.map(\.withoutPosition)) != Set(old.listeners.map(\.withoutPosition)) {
            logger.warning("'listeners' have changed in \(configuration.file): that takes effect with a restart only")
        }
        let accessLog = try accessLog(for: configuration)
        let snapshot = try NodeSnapshot(
            configuration: configuration,
            credential: credential,
            listenerAddresses: addresses,
            accessLog: accessLog,
            metrics: transportMetrics(for: configuration),
            warn: { [logger] in logger.warning("\($0)") }
        )
        try await hand(snapshot, to: workers)
        state.withLock { state in
            state.configuration = configuration
            state.stamp = stamp
        }
        await use(accessLog)
        tellWhatNeedsRestart(old, configuration)
        logger.notice("reloaded", metadata: ["certificate until": "\(credential.notAfter)"])
    }

    /// Reloads when the configuration file or the credential has changed since it was read. A broken one is reported
    /// once.
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

    // MARK: -

    /// All listeners, in the order of the configuration; or none, when one of them fails.
    private func listen(
        _ listeners: [NodeConfiguration.Listener],
        _ workers: [LoopBound<Worker>],
        _ inherited: InheritedSockets
    ) async throws -> ([NamedListener], [ReadyListener]) {
        let sockets = try listeners.map { listener in
            inherited.take(
                name: listener.name,
                bind: try SocketAddress(ip: listener.bind.address.description, port: listener.bind.port)
            )
        }
        // Sockets that were handed over come last. Accepting on them takes connections from the process that has them;
        // it must not begin before every bind that can fail has succeeded.
        let order = listeners.indices.filter { sockets[$0] == nil } + listeners.indices.filter { sockets[$0] != nil }
        var started: [Int: (NamedListener, ReadyListener)] = [:]
        do {
            for index in order {
                let name = listeners[index].name
                let bound = try await listen(listeners[index], on: sockets[index], workers)
                let address = try await localAddress(of: bound)
                var named = NamedListener(name: name, listener: bound)
                started[index] = (named, ReadyListener(name: name, address: address))
                guard listeners[index].protocol == .dns else { continue }
                named.datagrams = try await listen(for: listeners[index], at: address, workers)
                started[index]?.0 = named
            }
        } catch {
            await close(started.values.map(\.0))
            throw error
        }
        let inOrder = listeners.indices.compactMap { started[$0] }
        return (inOrder.map(\.0), inOrder.map(\.1))
    }

    private func listen(
        _ listener: NodeConfiguration.Listener,
        on socket: ListeningSocket?,
        _ workers: [LoopBound<Worker>]
    ) async throws -> LoopBound<Listener> {
        let address = try SocketAddress(ip: listener.bind.address.description, port: listener.bind.port)
        let options = listener.socketOptions
        let (first, loops) = (group.loops[0], group.loops)
        return try await first.execute {
            let accept: @Sendable (Socket) -> Void = { socket in
                workers.first { $0.loop === socket.loop }?.withValue { $0.accept(socket, by: listener) }
            }
            let started =
                if let socket {
                    try Listener(adopting: socket, on: first, options: options, spreadOver: loops, accept: accept)
                } else {
                    try Listener(bind: address, on: first, options: options, spreadOver: loops, accept: accept)
                }
            return LoopBound(started, on: first)
        }
    }

    /// Questions to a name server come as datagrams, too, all to the first loop.
    private func listen(
        for listener: NodeConfiguration.Listener,
        at address: SocketAddress,
        _ workers: [LoopBound<Worker>]
    ) async throws -> LoopBound<DatagramSocket> {
        let worker = workers[0]
        return try await worker.loop.execute {
            LoopBound(try worker.withValue { try $0.answerDatagrams(at: address, for: listener) }, on: worker.loop)
        }
    }

    private func localAddress(of listener: LoopBound<Listener>) async throws -> SocketAddress {
        try await listener.loop.execute { listener.withValue(\.localAddress) }
    }

    /// Rules that let connections pass when nobody listens have to know that somebody does.
    private func heartbeat(for configuration: NodeConfiguration) async throws -> LoopBound<CaptureHeartbeat>? {
        let ports = configuration.listeners.filter { $0.capture?.onFailure == .open }.map(\.bind.port)
        guard !ports.isEmpty else { return nil }
        let first = group.loops[0]
        return try await first.execute { LoopBound(try CaptureHeartbeat(to: ports, on: first), on: first) }
    }

    func close(_ listeners: [NamedListener]) async {
        for listener in listeners {
            try? await listener.listener.loop.execute { listener.close() }
        }
    }

    private func hand(_ snapshot: NodeSnapshot, to workers: [LoopBound<Worker>]) async throws {
        if let names, let listener = snapshot.configuration.listeners.first(where: { $0.protocol == .dns }) {
            let endpoints = snapshot.configuration.endpoints.map(\.rule)
            let (blocks, lifetime) = (listener.names.blocks, listener.names.lifetime)
            names.prepare(MeshZone.fixedNames(endpoints), in: blocks, lifetime: lifetime)
        }
        for worker in workers {
            try await worker.loop.execute { worker.withValue { $0.take(snapshot) } }
        }
    }

    private static func stamp(_ configuration: NodeConfiguration, _ file: String?) -> FileStamp {
        let names = ["key.pem", "cert-chain.pem", "root-cert.pem", "ca-crl.pem"]
        let users = configuration.listeners.compactMap(\.users)
        return FileStamp(of: names.map { "\(configuration.identity)/\($0)" } + (file.map { [$0] } ?? []) + users)
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
