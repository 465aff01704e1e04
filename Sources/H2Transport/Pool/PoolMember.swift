import Streams

/// The connections of an ``H2ClientPool`` to one endpoint, and who waits for them.
///
/// ```
///   open ──→ waiting ── a connection with room ──→ requested ──→ completion
///               ↑  └─ none: dial, one at a time       │
///               └── refused unseen, or lost ──────────┘  at most `attempts` times
/// ```
final class PoolMember: H2ConnectionDelegate {
    private struct Waiting {
        let request: ConnectRequest
        let completion: H2ClientPool.Completion
        var attempts = 0
        /// Has refused it: another one is asked, where there can be another.
        var refuser: H2Connection?
    }

    let endpoint: H2Endpoint
    private unowned let pool: H2ClientPool
    private(set) var connections: [H2Connection] = []
    /// Too old, and in use until what replaces them is up.
    private var aged: Set<ObjectIdentifier> = []
    private var waiting: ContiguousArray<Waiting> = []
    private var attempt: ConnectionDial?
    private var isClosed = false
    private var idleTimer: LoopTimer?

    init(_ endpoint: H2Endpoint, of pool: H2ClientPool) {
        self.endpoint = endpoint
        self.pool = pool
    }

    func open(_ request: ConnectRequest, _ completion: @escaping H2ClientPool.Completion) {
        guard !isClosed, waiting.count < pool.configuration.waitingRequests else {
            let error =
                isClosed
                ? StreamError(.closed, "the connections to \(endpoint.key) were closed")
                : StreamError(.limit, "\(waiting.count) requests wait for a connection to \(endpoint.key)")
            LoopCall(on: pool.loop) { completion(.failure(ConnectFailure(error, isRetryable: true))) }
            return
        }
        waiting.append(Waiting(request: request, completion: completion))
        serve(mayDial: true)
    }

    // MARK: Requests

    /// Hands the requests that wait to connections, and dials when one wants another connection.
    ///
    /// - Parameter mayDial: False after a dial has failed: then whatever connection takes the request is good enough.
    private func serve(mayDial: Bool) {
        guard !waiting.isEmpty else { return }
        let canDial = mayDial && hasRoomForConnection
        let queue = waiting
        waiting = []
        for (index, item) in queue.enumerated() {
            if let connection = connection(for: item, choosy: canDial) {
                start(item, on: connection)
            } else if item.refuser == nil {
                // Nor is there one for those behind it.
                waiting.append(contentsOf: queue[index...])
                break
            } else {
                waiting.append(item)
            }
        }
        if !waiting.isEmpty && canDial { dial() }
    }

    /// The first good connection that has room, so that those behind it become idle and are released.
    private func connection(for item: Waiting, choosy: Bool) -> H2Connection? {
        var second: H2Connection?
        for connection in connections where connection.availableStreams > 0 {
            let isGood = !connection.isWindowStalled && !aged.contains(ObjectIdentifier(connection))
            if isGood && connection !== item.refuser { return connection }
            if second == nil || isGood { second = connection }
        }
        return choosy ? nil : second
    }

    private func start(_ item: Waiting, on connection: H2Connection) {
        connection.openStream(item.request) { [self] result in
            guard case .failure(let failure) = result, failure.isRetryable, !isClosed,
                item.attempts + 1 < pool.configuration.attempts
            else { return item.completion(result) }
            var again = item
            again.attempts += 1
            again.refuser = connection
            pool.counters.repeatedRequests += 1
            pool.configuration.http2.metrics.countRepeatedRequest()
            waiting.append(again)
            // Not from inside of what the connection is telling: it may be about to say that it is gone.
            LoopCall(on: pool.loop) { self.serve(mayDial: true) }
        }
    }

    // MARK: Connections

    private var hasRoomForConnection: Bool {
        let inUse = connections.count { !$0.isDraining && !aged.contains(ObjectIdentifier($0)) }
        return !isClosed && inUse < pool.configuration.connectionsPerEndpoint
    }

    private func dial() {
        guard attempt == nil, hasRoomForConnection else { return }
        let attempt = ConnectionDial(to: endpoint, configuration: pool.configuration.http2, on: pool.loop)
        self.attempt = attempt
        attempt.start { [self] result in
            self.attempt = nil
            switch result {
            case .success(let connection): use(connection)
            case .failure(let error): dialFailed(error)
            }
        }
    }

    private func use(_ connection: H2Connection) {
        if let trust = pool.trust, connection.end(ifRevokedIn: trust) {
            return dialFailed(StreamError(.authentication, "the certificate of \(endpoint.key) was revoked"))
        }
        connection.delegate = self
        pool.counters.connected += 1
        if !aged.isEmpty {
            pool.counters.replacements += 1
        } else if connections.contains(where: { !$0.isDraining }) {
            pool.counters.overflows += 1
        }
        connections.append(connection)
        pool.onChange?(endpoint.key, .connected(connection))
        retireAged()
        serve(mayDial: true)
        watchIdle()
    }

    private func dialFailed(_ error: StreamError) {
        pool.counters.failedDials += 1
        pool.onChange?(endpoint.key, .failed(error))
        // Where other connections are up, those who wait get a stream there, or when one ends.
        guard connections.allSatisfy(\.isDraining) else {
            for index in waiting.indices { waiting[index].refuser = nil }
            return serve(mayDial: false)
        }
        let failed = waiting
        waiting = []
        for item in failed { item.completion(.failure(ConnectFailure(error, isRetryable: true))) }
        forgetIfUnused()
    }

    private func retireAged() {
        let old = connections.filter { aged.contains(ObjectIdentifier($0)) }
        aged = []
        for connection in old { connection.retire() }
    }

    // MARK: Idle

    private func watchIdle() {
        guard !isClosed, connections.contains(where: { $0.streamCount == 0 }) else { return }
        if idleTimer == nil { idleTimer = LoopTimer(on: pool.loop) { [weak self] in self?.closeIdle() } }
        idleTimer?.schedule(after: pool.configuration.idleTimeout)
    }

    /// Every stream that ends sets the timer anew: what has no stream now has had none for the whole time.
    private func closeIdle() {
        guard waiting.isEmpty else { return }
        for connection in connections where connection.streamCount == 0 {
            pool.counters.idleCloses += 1
            connection.close()
        }
    }

    func drain(deadline: Duration) {
        isClosed = true
        stopDialing()
        for connection in connections {
            if connection.streamCount == 0 { connection.close() } else { connection.drain(deadline: deadline) }
        }
        failWaiting()
    }

    func close() {
        isClosed = true
        stopDialing()
        idleTimer?.cancel()
        for connection in connections { connection.close() }
        failWaiting()
    }

    private func stopDialing() {
        attempt?.cancel()
        attempt = nil
    }

    private func failWaiting() {
        let failed = waiting
        waiting = []
        let error = StreamError(.closed, "the connections to \(endpoint.key) were closed")
        for item in failed {
            LoopCall(on: pool.loop) { item.completion(.failure(ConnectFailure(error, isRetryable: true))) }
        }
    }

    private func forgetIfUnused() {
        guard connections.isEmpty, waiting.isEmpty, attempt == nil else { return }
        idleTimer?.cancel()
        pool.forget(self)
    }

    // MARK: H2ConnectionDelegate

    func connection(_ connection: H2Connection, received request: PendingConnect) {
        request.reject(.denied())
    }

    func connectionIsDraining(_ connection: H2Connection) {
        pool.onChange?(endpoint.key, .draining(connection))
        serve(mayDial: true)
    }

    func connectionIsTooOld(_ connection: H2Connection) {
        guard connection.streamCount > 0 else { return connection.close() }
        aged.insert(ObjectIdentifier(connection))
        dial()
    }

    func connectionHasCapacity(_ connection: H2Connection) {
        serve(mayDial: true)
        if connection.streamCount == 0 { watchIdle() }
    }

    func connection(_ connection: H2Connection, closed reason: StreamError?) {
        connections.removeAll { $0 === connection }
        aged.remove(ObjectIdentifier(connection))
        pool.onChange?(endpoint.key, .disconnected(connection, reason))
        serve(mayDial: true)
        forgetIfUnused()
    }
}
