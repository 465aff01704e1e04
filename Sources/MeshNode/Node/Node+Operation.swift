import H2Transport
import Logging
import MeshIdentity
import Platform
import Streams

// What a node tells of its streams, and of itself.
extension Node {
    /// A server beside the listeners.
    struct Service {
        /// In messages, and on the way to a process that takes over.
        let name: String
        let server: LoopBound<OperationServer>
    }

    // MARK: The access log

    /// The log that `configuration` asks for: the one there is, if it is the same.
    ///
    /// - Throws: ``Streams/StreamError`` when its file cannot be opened.
    func accessLog(for configuration: NodeConfiguration) throws(StreamError) -> AccessLog? {
        guard let settings = configuration.accessLog else { return nil }
        if let present = state.withLock({ $0.accessLog }), present.settings == settings { return present }
        return try AccessLog(settings, logger: logger)
    }

    /// Every worker has it. The one before is written to its end.
    func use(_ accessLog: AccessLog?) async {
        let before = state.withLock { state in
            defer { state.accessLog = accessLog }
            return state.accessLog
        }
        guard let before, before !== accessLog else { return }
        await before.close()
    }

    /// Opens the file of the access log again: it was moved away.
    package func reopenAccessLog() { state.withLock { $0.accessLog }?.reopen() }

    // MARK: Metrics

    /// Where connections count; nil: where the process does.
    func transportMetrics(for configuration: NodeConfiguration) -> H2Metrics? {
        configuration.hasServices ? transportMetrics : nil
    }

    /// Whether nothing new is taken.
    var isDraining: Bool { state.withLock { $0.drain != nil } }

    /// What each loop tells.
    func reports() async -> [WorkerReport] {
        var reports: [WorkerReport] = []
        for worker in state.withLock({ $0.workers }) {
            if let report = try? await worker.loop.execute({ worker.withValue { $0.report } }) {
                reports.append(report)
            }
        }
        return reports
    }

    func credential() async -> Credential? { await snapshot()?.credential }

    /// What holds now; nil before the node has started, and when it is gone.
    func snapshot() async -> NodeSnapshot? {
        guard let worker = state.withLock({ $0.workers.first }) else { return nil }
        return try? await worker.loop.execute { worker.withValue { $0.snapshot } }
    }

    func metricsText() async -> String {
        let report = WorkerReport.sum(await reports())
        let counts = state.withLock { $0.accessLog }?.counts ?? AccessLog.Counts()
        let directory = state.withLock { state in
            DirectoryFigures(
                revision: state.directory?.revision ?? 0,
                hasProblem: state.directoryStatus.problem != nil,
                changes: state.directoryStatus.changes,
                refused: state.directoryStatus.refused
            )
        }
        let metrics = NodeMetrics(
            report: report,
            isDraining: isDraining,
            certificateRemaining: (await credential()?.notAfter ?? 0) - WallClock.system.seconds,
            accessLogLines: counts.written,
            accessLogDropped: counts.dropped,
            directory: directory,
            process: .now()
        )
        return metrics.text(with: registry)
    }

    // MARK: Servers

    /// Starts what the configuration asks for beside listeners.
    ///
    /// - Parameters:
    ///   - inherited: Sockets that listen already.
    ///   - isHeir: Another process may have these servers; see ``takePlaces(_:)``.
    /// - Throws: ``Streams/StreamError`` when one of them cannot listen; none does then.
    func startServices(
        _ configuration: NodeConfiguration,
        _ inherited: InheritedSockets,
        replacing isHeir: Bool
    ) async throws -> [Service] {
        var services: [Service] = []
        do {
            let admin = try configuration.adminSocket.map { try SocketAddress(unixPath: $0) }
            if let address = admin ?? configuration.admin?.socketAddress {
                services.append(
                    try await service("admin", at: address, inherited, replacing: isHeir) { [weak self] request in
                        await self?.answerAdministration(request) ?? .stopping
                    }
                )
            }
            if let bind = configuration.metrics {
                services.append(
                    try await service("metrics", at: bind.socketAddress, inherited) { [weak self] request in
                        await self?.answerMetrics(request) ?? .stopping
                    }
                )
            }
        } catch {
            await stop(services)
            throw error
        }
        return services
    }

    /// Servers stay where they are.
    func tellWhatNeedsRestart(_ old: NodeConfiguration, _ new: NodeConfiguration) {
        let isSame = old.admin == new.admin && old.adminSocket == new.adminSocket && old.metrics == new.metrics
        guard !isSame else { return }
        logger.warning("'admin' or 'metrics' has changed in \(new.file): that takes effect with a restart only")
    }

    func service(
        _ name: String,
        at address: SocketAddress,
        _ inherited: InheritedSockets,
        replacing isHeir: Bool = false,
        _ handler: @escaping OperationServer.Handler
    ) async throws -> Service {
        let socket = address.isUnix ? nil : inherited.take(name: name, bind: address)
        let (loop, logger) = (group.loops[0], logger)
        let server = try await loop.execute {
            let server = try OperationServer(
                at: address,
                adopting: socket,
                replacing: isHeir,
                on: loop,
                handler: handler
            )
            let place = address.isUnix ? address : server.localAddress ?? address
            logger.notice("\(name) is served", metadata: ["at": "\(place)"])
            return LoopBound(server, on: loop)
        }
        return Service(name: name, server: server)
    }

    /// The servers are reached where the process that is replaced had them: nothing may fail any more after this.
    func takePlaces(_ services: [Service]) async throws {
        for service in services {
            try await service.server.loop.execute { try service.server.withValue { try $0.takePlace() } }
        }
    }

    func stopServices() async {
        let services = state.withLock { state in
            defer { state.services = [] }
            return state.services
        }
        await stop(services)
    }

    func stop(_ services: [Service]) async {
        for service in services {
            try? await service.server.loop.execute { service.server.withValue { $0.shutDown() } }
        }
    }

    private func answerMetrics(_ request: OperationRequest) async -> OperationResponse {
        await answerProbe(request)
            ?? OperationResponse(404, "there are /metrics, /healthz and /readyz")
    }

    /// What both servers answer.
    func answerProbe(_ request: OperationRequest) async -> OperationResponse? {
        guard ["/metrics", "/healthz", "/readyz"].contains(request.path) else { return nil }
        guard request.method == "GET" else { return .notAllowed("GET") }
        switch request.path {
        case "/metrics":
            return OperationResponse(type: PrometheusText.contentType, body: Array(await metricsText().utf8))
        case "/healthz":
            // A loop that hangs does not come back from this.
            for worker in state.withLock({ $0.workers }) { try? await worker.loop.execute {} }
            return OperationResponse(200, "ok")
        default:
            let unready = await whyNotReady()
            return unready.map { OperationResponse(503, $0) } ?? OperationResponse(200, "ready")
        }
    }

    private func whyNotReady() async -> String? {
        if isDraining { return "draining" }
        guard let credential = await credential() else { return "starting" }
        guard credential.notAfter > WallClock.system.seconds else { return "the certificate has expired" }
        return nil
    }
}

extension Node {
    /// The administration is there before the node's event loops are, and for a moment after them.
    var unavailable: OperationResponse {
        let hasLoops = state.withLock { !$0.workers.isEmpty }
        return hasLoops || isDraining ? .stopping : .starting
    }
}

extension OperationResponse {
    static var starting: OperationResponse {
        var response = OperationResponse(
            503,
            "the node is starting, and decides nothing yet: ask again in a moment. Its log says what it waits for"
        )
        response.retryAfter = 1
        return response
    }

    static var stopping: OperationResponse { OperationResponse(503, "the node is gone") }
}
