import Logging
import MeshIdentity
import Streams

// The end of a node: by its own, or because another process takes its place.
extension Node {
    /// Accepts nothing new, tells peers to go elsewhere (GOAWAY), lets live streams end for up to `deadline`, then cuts
    /// them and stops. Called again, it can only shorten the time, and returns when the node has stopped.
    ///
    /// - Parameter deadline: nil: streams may go on for as long as they last.
    public func drain(deadline: Duration?) async {
        let task = state.withLock { state in
            if let task = state.drain { return task }
            let (listeners, workers, takeover) = (state.listeners, state.workers, state.takeover)
            let heartbeat = state.heartbeat
            let keyRefresh = state.keyRefresh
            state.listeners = []
            state.takeover = nil
            state.heartbeat = nil
            let network = state.network
            state.network = nil
            let task = Task {
                if let heartbeat { try? await heartbeat.loop.execute { heartbeat.withValue { $0.stop() } } }
                if let keyRefresh { try? await keyRefresh.loop.execute { keyRefresh.withValue { $0.stop() } } }
                await close(listeners)
                if let takeover { try? await takeover.loop.execute { takeover.withValue { $0.close() } } }
                await drain(workers)
                if let network { try? await network.loop.execute { network.withValue { $0.close() } } }
                await use(nil)
                await stopServices()
                await group.shutDown(timeToDepart: Self.timeToDepart)
            }
            state.drain = task
            return task
        }
        if let deadline {
            for worker in state.withLock({ $0.workers }) {
                worker.loop.submit { worker.withValue { $0.limitDraining(to: deadline) } }
            }
        }
        await task.value
    }

    /// For the last bytes of streams that ended in order, where no deadline says otherwise: a slow peer may still have
    /// megabytes to receive.
    private static let timeToDepart = Duration.seconds(60)

    private func drain(_ workers: [LoopBound<Worker>]) async {
        await withTaskGroup(of: Void.self) { group in
            for worker in workers {
                group.addTask {
                    await withCheckedContinuation { continuation in
                        worker.loop.submit { worker.withValue { $0.drain { continuation.resume() } } }
                    }
                }
            }
        }
    }

    /// Keeps the certificate fresh as the configuration's `renewal` or `workloadAPI` says, until the task is cancelled.
    public func keepCredentialFresh() async { await keepCredentialFresh { _ in } }

    /// - Parameter opened: Told the listeners that a change of the configuration, read at the same time, has opened.
    package func keepCredentialFresh(_ opened: @escaping @Sendable ([ReadyListener]) -> Void) async {
        async let following: Void = followWorkloadAPI(opened)
        await renewCredential()
        await following
    }

    private func renewCredential() async {
        await MeshRenewal(logger: logger) { [self] in
            state.withLock { state in
                guard let source = state.configuration.renewal,
                    let directory = state.configuration.identity.directory
                else { return nil }
                let bind = state.configuration.listeners.first { $0.protocol == .hbone }
                let listener = bind.map { state.addresses[$0.name] ?? $0.bind }
                return MeshRenewal.Settings(
                    source: source,
                    directory: CredentialDirectory(directory),
                    listener: listener?.description ?? "127.0.0.1:15008"
                )
            }
        }.run()
    }

    /// Whatever is still going on, for a message.
    public func liveStreams() async -> Int {
        var count = 0
        for worker in state.withLock({ $0.workers }) {
            count += (try? await worker.loop.execute { worker.withValue { $0.live.count } }) ?? 0
        }
        return count
    }

    /// What has become of the rules that lead traffic here.
    package enum CaptureEnd: Hashable, Sendable {
        /// The configuration asks for none, nor did it at the start.
        case none
        case removed
        /// A listener has `onFailure: closed`: without its rules, what it captures would go on in the clear.
        case kept
        case failed(CaptureError)
    }

    /// Takes the rules away that lead traffic here, unless they have to go on refusing it: for a node that has ended
    /// and has no heir. Blocks.
    package func removeCapture() -> CaptureEnd {
        // A reload that took `capture` out of the file has taken no rule away.
        let captures = state.withLock { $0.captures + Self.captures(of: $0.configuration) }
        guard !captures.isEmpty else { return .none }
        guard captures.allSatisfy({ $0.onFailure == .open }) else { return .kept }
        do throws(CaptureError) {
            try CaptureInstaller.remove()
            return .removed
        } catch {
            return .failed(error)
        }
    }

    /// Whether the configuration asks for rules and there are none, so that nothing is captured. False where this
    /// process may not know. Blocks.
    package func lacksCaptureRules() -> Bool {
        guard !Self.captures(of: state.withLock { $0.configuration }).isEmpty else { return false }
        do throws(CaptureError) {
            return try !CaptureInstaller.isInstalled
        } catch {
            return false
        }
    }

    static func captures(of configuration: NodeConfiguration) -> [NodeConfiguration.Capture] {
        configuration.listeners.compactMap(\.capture)
    }

    /// Lets another process take over the listening sockets; see ``Takeover``. To be called once the node has started.
    ///
    /// - Returns: The number of the process that has them now: this node accepts nothing more, and is to be drained. It
    ///   never returns when no process comes, other than by an error or by cancellation.
    /// - Throws: ``Streams/StreamError`` when nothing can listen there, `CancellationError`.
    package func takenOver(at path: String) async throws -> Int32 {
        let heirs = AsyncStream<Int32>.makeStream()
        let loop = group.loops[0]
        let logger = logger
        let offer = try await loop.execute { [self] in
            let offer = try TakeoverOffer(at: path, on: loop, logger: logger) { [self] in
                let (listeners, services) = try state.withLock { (try $0.beginHandingOver(), $0.services) }
                do {
                    return try listeners.map { listener in
                        try listener.listener.withValue { try $0.duplicate(named: listener.name) }
                    }
                        + services.compactMap { service in
                            try service.server.withValue { try $0.duplicate(named: service.name) }
                        }
                } catch {
                    state.withLock { $0.change = nil }
                    throw error
                }
            } onTaken: { [self] process, released in
                let listeners = state.withLock { state in
                    defer { (state.listeners, state.change, state.hasHeir) = ([], nil, true) }
                    return state.listeners
                }
                for listener in listeners { listener.close() }
                // Who asks from now on asks the heir.
                for service in state.withLock({ $0.services }) { service.server.withValue { $0.close() } }
                released()
                heirs.continuation.yield(process)
            } onAbandoned: { [self] in
                state.withLock { $0.change = nil }
            }
            return LoopBound(offer, on: loop)
        }
        state.withLock { $0.takeover = offer }
        for await process in heirs.stream { return process }
        throw CancellationError()
    }
}
