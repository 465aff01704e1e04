import ArgumentParser
import CLinux
import Glibc
import Logging
import MeshNode
import Platform
import Streams
import UnixSignals

/// Runs a node until it is told to stop, or until another process has taken its place.
///
/// ```
///   start ──→ running ── SIGTERM, SIGINT ──→ draining, for --drain ── ended ──→ 0
///                │                               │ a second signal ───────────→ 1
///                └─ taken over ──→ draining, for connections.drainTimeout, and shorter with a signal
/// ```
struct NodeService: Sendable {
    let node: Node
    let runtimeDirectory: String?
    let drain: Duration
    let drainAfterTakeover: Duration?
    let logger: Logger

    private enum End: Sendable {
        case signal
        case takenOver(by: Int32)
        /// By the administration, with its own time.
        case asked(Duration?)
        case drained
    }

    func run() async throws {
        // Before anybody can know that the node runs: an untrapped signal would end it.
        let hangups = await UnixSignalsSequence(trapping: .sighup)
        let stops = await UnixSignalsSequence(trapping: .sigterm, .sigint)
        let ends = AsyncStream<End>.makeStream()
        node.control = NodeControl(
            setLogLevel: { RunTimeLogLevel.set($0) },
            drain: { ends.continuation.yield(.asked($0)) }
        )
        // From now on, also while the node waits for an identity.
        let stopping = Task {
            for await _ in stops {
                node.stopWaiting()
                ends.continuation.yield(.signal)
            }
        }
        do {
            try await start()
        } catch is CancellationError {
            logger.notice("ended by a signal before there was an identity")
            return stopping.cancel()
        }
        let reloads = [
            Task {
                for await _ in hangups {
                    ServiceNotification.ofThisProcess.reloading()
                    // Also when the configuration was refused: the one before is in effect.
                    defer { ServiceNotification.ofThisProcess.ready("serving") }
                    node.reopenAccessLog()
                    do {
                        announceReady(try await node.reload())
                    } catch {
                        logger.error("not reloaded: \(error)")
                    }
                }
            },
            Task {
                // Two seconds bound how long an expired certificate is still shown after its renewal.
                while (try? await Task.sleep(for: .seconds(2))) != nil {
                    announceReady(await node.reloadIfChanged())
                }
            },
            Task { await node.keepCredentialFresh { announceReady($0) } },
            Task { await node.followDirectory() },
        ]
        let others = [
            stopping,
            Task { await offerTakeover { ends.continuation.yield(.takenOver(by: $0)) } },
        ]
        let result: Result<Void, any Error>
        var isTakenOver = false
        // Stopping takes no longer than the drain may; there is none without an end.
        var deadline = ContinuousClock.now
        do {
            try await follow(ends.stream, &isTakenOver) { limit in
                deadline = ContinuousClock.now + (limit ?? .zero)
                Task {
                    await node.drain(deadline: limit)
                    ends.continuation.yield(.drained)
                }
            }
            result = .success(())
        } catch {
            result = .failure(error)
        }
        for task in reloads + others.dropFirst() { task.cancel() }
        // An heir needs the rules; without one, they would lead to nobody.
        if !isTakenOver { endCapture() }
        let code: ExitCode
        if case .success = result { code = .success } else { code = .failed }
        await wait(for: reloads, until: deadline, ends.stream, code)
        others[0].cancel()
        try result.get()
    }

    /// The process ends when ``run()`` returns. A task that reads a credential meanwhile would use OpenSSL while that
    /// is taken down, so they are waited for; but one that hangs, on a file system that does not answer, keeps nobody.
    private func wait(
        for reloads: [Task<Void, Never>],
        until deadline: ContinuousClock.Instant,
        _ ends: AsyncStream<End>,
        _ code: ExitCode
    ) async {
        let areDone = Lock(false)
        // They are told to end just now: there is always time for that.
        Self.later(max(ContinuousClock.now.duration(to: deadline), .seconds(1))) { [logger] in
            guard !areDone.withLock({ $0 }) else { return }
            logger.warning("ended without waiting for a reload that hangs")
            _exit(code.rawValue)
        }
        let hurry = Task {
            for await end in ends {
                guard case .signal = end else { continue }
                logger.warning("ended by another signal")
                _exit(ExitCode.failed.rawValue)
            }
        }
        for task in reloads { await task.value }
        areDone.withLock { $0 = true }
        hurry.cancel()
    }

    private func endCapture() {
        switch node.removeCapture() {
        case .none: break
        case .removed:
            logger.notice(
                "the rules of capture went with the node ('onFailure: open'); `bootstrap capture install` sets them again"
            )
        case .kept:
            logger.notice(
                "the rules of capture stay ('onFailure: closed'), and refuse what they capture until a node listens again; `bootstrap capture remove` takes them away"
            )
        case .failed(let error):
            logger.warning("the rules of capture were not removed: \(error). `bootstrap capture remove` does it")
        }
    }

    /// Starts the node, with the sockets of the process that runs already, if there is one, and lets that one know.
    private func start() async throws {
        // Before another process hands anything over, and waits.
        try await node.waitForIdentity()
        var takeover: Takeover?
        if let runtimeDirectory {
            try Takeover.prepare(runtimeDirectory)
            takeover = try Takeover.begin(in: runtimeDirectory)
        }
        let activated = InheritedSockets.fromSystemd { logger.warning("\($0)") }
        let inherited = takeover?.sockets.adding(activated) ?? activated
        let count = inherited.count
        let listeners = try await node.start(adopting: inherited)
        if let takeover {
            do throws(StreamError) {
                try takeover.finish()
            } catch {
                logger.warning("process \(takeover.process) did not say that it has released its listeners: \(error)")
            }
            logger.notice(
                "took over \(counted(count, "listener")) from process \(takeover.process), which ends with its last stream"
            )
        } else if count > 0 {
            logger.notice("took over \(counted(count, "listener")) from systemd")
        }
        announceReady(listeners)
        if node.lacksCaptureRules() {
            logger.warning(
                "nothing is captured: the rules are not set, or went with the node before ('onFailure: open'); `bootstrap capture install` sets them"
            )
        }
        ServiceNotification.ofThisProcess.ready("serving")
        clinux_forget_code()
    }

    private func announceReady(_ listeners: [Node.ReadyListener]) {
        for listener in listeners { announce("ready \(listener.name) \(listener.address)") }
    }

    private func offerTakeover(_ taken: (Int32) -> Void) async {
        guard let runtimeDirectory else { return }
        do {
            taken(try await node.takenOver(at: Takeover.path(in: runtimeDirectory)))
        } catch is CancellationError {
            return
        } catch {
            logger.error("no process can take over from this one: \(error)")
        }
    }

    private func follow(
        _ ends: AsyncStream<End>,
        _ isTakenOver: inout Bool,
        _ drain: (Duration?) -> Void
    ) async throws {
        var signals = 0
        for await end in ends {
            switch end {
            case .drained: return
            // The one that has taken over is the service now.
            case .takenOver: break
            case .asked, .signal: ServiceNotification.ofThisProcess.stopping()
            }
            switch end {
            case .drained: return
            case .takenOver(let process):
                isTakenOver = true
                let streams = await node.liveStreams()
                logger.notice(
                    "process \(process) has taken over the listeners; this one ends with its last stream",
                    metadata: ["streams": "\(streams)"]
                )
                drain(drainAfterTakeover)
            case .asked(let time):
                let limit = time ?? self.drain
                logger.notice("draining", metadata: ["for at most": "\(limit)"])
                drain(limit)
            case .signal:
                signals += 1
                guard signals == 1 else { return try await endAtOnce() }
                logger.notice("draining", metadata: ["for at most": "\(self.drain)"])
                drain(self.drain)
            }
        }
    }

    /// Streams are cut, so that nobody takes their ends for clean; but nothing is waited for.
    private func endAtOnce() async throws {
        // Whatever hangs must not keep the process.
        Self.later(.seconds(2)) { _exit(ExitCode.failed.rawValue) }
        let streams = await node.liveStreams()
        logger.warning("ended by a second signal", metadata: ["streams cut": "\(streams)"])
        await node.drain(deadline: .zero)
        throw ExitCode.failed
    }

    /// On a thread of its own: a task that hangs has one of those that tasks share.
    private static func later(_ time: Duration, _ body: @escaping @Sendable () -> Void) {
        let end = ContinuousClock.now + time
        startThread {
            while ContinuousClock.now < end { usleep(100_000) }
            body()
        }
    }
}
