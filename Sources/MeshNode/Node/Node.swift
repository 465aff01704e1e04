import H2Transport
public import Logging
import MeshDirectory
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

    struct State {
        var configuration: NodeConfiguration
        var addresses: [String: NodeConfiguration.BindAddress] = [:]
        var listeners: [NamedListener] = []
        var workers: [LoopBound<Worker>] = []
        var stamp: FileStamp
        /// The last one that was asked for.
        var reload: Task<Void, any Error>?
        /// What happens to ``listeners`` right now.
        var change: ListenerChange?
        /// Another process has the listeners.
        var hasHeir = false
        /// Ends when every worker has drained.
        var drain: Task<Void, Never>?
        var takeover: LoopBound<TakeoverOffer>?
        var heartbeat: LoopBound<CaptureHeartbeat>?
        /// nil: the kernel tells nothing.
        var network: LoopBound<NetworkWatch>?
        /// Who fetches the keys of issuers; nil: no listener has needed any.
        var keyRefresh: LoopBound<KeyRefresh>?
        /// Those of all listeners that the node has had.
        var captures: [NodeConfiguration.Capture] = []
        var accessLog: AccessLog?
        /// Metrics and administration.
        var services: [Service] = []
        var control = NodeControl()
        /// What an agent says who this node is.
        var workload = WorkloadState()
        /// What was read last where files say it: what was revoked there stays so.
        var lastCredential: Credential?
        /// What the mesh's directory adds; nil: nothing.
        var directory: DirectoryInForce?
        var directoryStatus = DirectoryStatus()
        /// What of it is to be saved; nil: nobody follows it.
        var unsavedDirectory: UnsavedDirectory?
        /// What was read last of the directory, where nothing of it could be taken; nil: it was.
        var refusedDirectory: (SignedDirectory, DirectorySettings)?
    }

    let group: EventLoopGroup
    let logger: Logger
    let stripes = StripeDirectory()
    /// Which servers are down, of destinations that have several.
    let outages = ServerOutages()
    /// What connections count, where somebody asks.
    let registry = MetricsRegistry()
    let transportMetrics: H2Metrics
    /// The addresses that names of the mesh have.
    let names = VirtualNames()
    /// The keys of issuers that are fetched.
    let keyRings = TokenKeyRings()
    let resumptions = ResumptionDirectory()
    /// Connections that peers hold to this node, of all loops.
    let held = HeldDirectory()
    /// Those on which it listens for peers.
    let ports = PeerPorts()
    /// Of all listeners: it is said once.
    let shortage: DescriptorShortage
    let state: Lock<State>
    /// The file to read again on a reload; nil when the configuration was made by a program.
    let configurationFile: String?
    private let filter: StreamFilterChoice?

    /// - Parameters:
    ///   - configuration: Validated.
    ///   - configurationFile: Read again by ``reload()``.
    ///   - loops: Event loops, one thread each.
    ///   - logger: Told of what the node does, and of what fails.
    ///   - filter: Says for each stream which filter sees what it carries, if any; nil: none ever does, which costs
    ///     nothing.
    public init(
        _ configuration: NodeConfiguration,
        configurationFile: String? = nil,
        loops: Int,
        logger: Logger,
        filter: StreamFilterChoice? = nil
    ) {
        self.filter = filter
        group = EventLoopGroup(count: loops)
        transportMetrics = H2Metrics(factory: registry)
        self.logger = logger
        shortage = DescriptorShortage { logger.warning("\($0)") }
        self.configurationFile = configurationFile
        state = Lock(State(configuration: configuration, stamp: Self.stamp(configuration, configurationFile)))
    }

    /// Loads the credential and starts every listener.
    ///
    /// - Parameter inherited: Sockets that listen already. Each goes to the listener that it fits; the others are
    ///   closed.
    /// - Throws: ``MeshIdentity/IdentityError`` for the credential, `CancellationError` where the wait for it was
    ///   ended, ``Streams/StreamError`` for a listener; nothing listens then.
    public func start(adopting inherited: InheritedSockets = InheritedSockets()) async throws -> [ReadyListener] {
        let configuration = state.withLock { $0.configuration }
        let identity = try await identity(for: configuration)
        let credential = identity.credential
        let warn: @Sendable (String) -> Void = { [logger] in logger.warning("\($0)") }
        for warning in configuration.warnings { warn("\(warning)") }
        let directory = knownDirectory(of: configuration, credential)
        state.withLock { $0.directory = directory }
        var snapshot = try NodeSnapshot(
            configuration: configuration,
            directory: directory,
            identity: identity,
            keyRings: keyRings,
            warn: warn
        )
        let accessLog = try accessLog(for: configuration)
        var workers: [LoopBound<Worker>] = []
        for (number, loop) in group.loops.enumerated() {
            let place = (number, group.loops.count)
            let (first, stripes, names, outages, logger) = (snapshot, stripes, names, outages, logger)
            let (filter, resumptions, held, ports) = (filter, resumptions, held, ports)
            workers.append(
                try await loop.execute {
                    LoopBound(
                        try Worker(
                            on: loop,
                            snapshot: first,
                            stripes: stripes,
                            resumptions: resumptions,
                            names: names,
                            outages: outages,
                            held: held,
                            ports: ports,
                            place: place,
                            filter: filter,
                            logger: logger
                        ),
                        on: loop
                    )
                }
            )
        }
        try mark(for: configuration)
        // Before the listeners take what is theirs.
        let isHeir = inherited.count > 0
        let prepared = try await prepare(configuration, beside: [], adopting: inherited, workers)
        var services: [Service] = []
        let heartbeat: LoopBound<CaptureHeartbeat>?
        do {
            services = try await startServices(configuration, inherited, replacing: isHeir)
            snapshot = try NodeSnapshot(
                configuration: configuration,
                directory: directory,
                identity: identity,
                listenerAddresses: prepared.addresses,
                serviceAddresses: await addresses(of: services),
                accessLog: accessLog,
                metrics: transportMetrics(for: configuration),
                keyRings: keyRings,
                warn: warn
            )
            try await hand(snapshot, to: workers)
            heartbeat = try await self.heartbeat(for: configuration)
            try await takePlaces(services)
            try await open(prepared)
        } catch {
            await stop(services)
            await close(prepared.opening)
            throw error
        }
        for address in inherited.closeRest() {
            logger.notice(
                "no listener of the configuration uses the inherited socket; it is closed",
                metadata: ["address": "\(address)"]
            )
        }
        let network = await watchNetwork(for: workers)
        state.withLock { state in
            state.workers = workers
            state.heartbeat = heartbeat
            state.network = network
            state.captures = Self.captures(of: configuration)
            state.listeners = prepared.all
            state.addresses = prepared.addresses
            state.accessLog = accessLog
            state.services = services
        }
        warnOfPlainTCP(configuration)
        logger.info(
            "started",
            metadata: [
                "identity": "\(credential.id)", "loops": "\(group.loops.count)", "listeners": "\(prepared.all.count)",
            ]
        )
        return prepared.ready
    }

    // MARK: -

    /// Where Multipath TCP was asked for, and there is none.
    func warnOfPlainTCP(_ configuration: NodeConfiguration) {
        guard configuration.connections.multipath, let reason = MultipathTCP.unavailability else { return }
        logger.warning("'connections: multipath': \(reason)")
    }

    /// One for all loops.
    private func watchNetwork(for workers: [LoopBound<Worker>]) async -> LoopBound<NetworkWatch>? {
        let loop = group.loops[0]
        do {
            return try await loop.execute {
                let watch = try NetworkWatch(on: loop) { change in
                    for worker in workers { worker.loop.submit { worker.withValue { $0.networkChanged(change) } } }
                }
                return LoopBound(watch, on: loop)
            }
        } catch {
            logger.info("changes of addresses are not noticed at once", metadata: ["reason": "\(error)"])
            return nil
        }
    }

    /// Rules of capture may know the node's own connections by their mark.
    func mark(for configuration: NodeConfiguration) throws(StreamError) {
        guard configuration.listeners.contains(where: { $0.capture?.node == .mark }) else { return }
        try OutgoingMark.set(CaptureRules.ownMark)
    }

    static func heartbeatPorts(_ configuration: NodeConfiguration) -> [UInt16] {
        configuration.listeners.filter { $0.capture?.onFailure == .open }.map(\.bind.port)
    }

    /// Rules that let connections pass when nobody listens have to know that somebody does.
    func heartbeat(for configuration: NodeConfiguration) async throws -> LoopBound<CaptureHeartbeat>? {
        let ports = Self.heartbeatPorts(configuration)
        guard !ports.isEmpty else { return nil }
        let first = group.loops[0]
        return try await first.execute { LoopBound(try CaptureHeartbeat(to: ports, on: first), on: first) }
    }
}
