import Logging
import MeshIdentity
import Platform
import Streams

// A node whose identity a SPIFFE agent gives and renews, over its Workload API.
extension Node {
    /// What is known of an agent, and what was said about it.
    struct WorkloadState {
        /// The last good one; nil: there was none yet.
        var identity: WorkloadIdentity?
        /// What is wrong now; nil: nothing.
        var problem: String?
        /// How late the agent is, as far as it was told.
        var toldLateness = WorkloadIdentity.Lateness.none
        /// Waits for the first one.
        var waiting: Task<WorkloadIdentity, any Error>?
        /// The process ends: nobody is waited for.
        var isEnding = false
    }

    /// A reload holds up those after it, as revocations that arrive.
    private static let longestWaitOfReload = Duration.seconds(5)

    /// Asks for the identity that a start needs, so that nothing else waits for it: not the process whose place this
    /// one takes.
    ///
    /// - Throws: As ``start(adopting:)``.
    package func waitForIdentity() async throws {
        let configuration = state.withLock { $0.configuration }
        guard configuration.identity.workloadAPI != nil else { return }
        _ = try await identity(for: configuration)
    }

    /// What the configuration says who this node is. A Workload API that has not answered yet is waited for, as long as
    /// its settings allow.
    func identity(for configuration: NodeConfiguration) async throws -> NodeIdentity {
        switch configuration.identity {
        case .directory(let path):
            let read = try CredentialDirectory(path).load()
            let former = state.withLock { $0.lastCredential }
            let (credential, remark) = former.map { read.keepingRevocations(of: $0) } ?? (read, nil)
            if let remark {
                logger.warning("\(path): \(remark): what was revoked stays so until the node starts again")
            }
            state.withLock { $0.lastCredential = credential }
            return NodeIdentity(credential: credential)
        case .workloadAPI(let settings):
            if let known = state.withLock({ $0.workload.identity }), known.settings == settings {
                return known.identity
            }
            let hasStarted = state.withLock { !$0.workers.isEmpty }
            let limit = hasStarted ? min(settings.startTimeout, Self.longestWaitOfReload) : settings.startTimeout
            let waiting = Task { [logger] in
                try await WorkloadAPI(settings: settings).first(within: limit) { logger.warning("\($0)") }
            }
            let isEnding = state.withLock { state in
                state.workload.waiting = waiting
                return state.workload.isEnding
            }
            if isEnding { waiting.cancel() }
            defer { state.withLock { $0.workload.waiting = nil } }
            let first = try await waiting.value
            state.withLock { state in
                state.workload = WorkloadState(identity: first, isEnding: state.workload.isEnding)
            }
            return first.identity
        }
    }

    /// For a process that is told to end while its node waits for an agent: the start fails with `CancellationError`.
    package func stopWaiting() {
        let waiting = state.withLock { state in
            state.workload.isEnding = true
            return state.workload.waiting
        }
        waiting?.cancel()
    }

    // MARK: Following

    /// Follows the Workload API that the configuration names, whichever that is at the time, until the task is
    /// cancelled: what it says replaces the node's credential and the bundles that came with it.
    ///
    /// - Parameter opened: Told the listeners that a change of the configuration, read at the same time, has opened.
    func followWorkloadAPI(_ opened: @escaping @Sendable ([ReadyListener]) -> Void) async {
        while !Task.isCancelled {
            let settings = workloadSettings
            await withTaskGroup(of: Void.self) { group in
                if let settings {
                    group.addTask { [self] in
                        let present = state.withLock { $0.workload.identity }
                        let known = present?.settings == settings ? present : nil
                        await WorkloadAPI(settings: settings).follow(after: known) { result in
                            switch result {
                            case .success(let identity): opened(await take(identity))
                            case .failure(let error): complain(error)
                            }
                        }
                    }
                }
                group.addTask { [self] in
                    while workloadSettings == settings, !tellIfLate(settings),
                        (try? await Task.sleep(for: .milliseconds(500))) != nil
                    {}
                }
                // An agent that says nothing for too long is asked anew: it answers at once.
                await group.next()
                group.cancelAll()
            }
        }
    }

    private var workloadSettings: WorkloadAPISettings? { state.withLock { $0.configuration.identity.workloadAPI } }

    private func take(_ identity: WorkloadIdentity) async -> [ReadyListener] {
        let (isNews, areProblemsNews, wasWrong) = state.withLock { state in
            let former = state.workload.identity
            let isNews = former?.isSame(as: identity) != true
            let areProblemsNews = former?.problems != identity.problems
            defer {
                state.workload.identity = identity
                state.workload.problem = nil
                if former?.identity.credential.leaf != identity.identity.credential.leaf {
                    state.workload.toldLateness = .none
                }
            }
            return (isNews, areProblemsNews, state.workload.problem != nil)
        }
        if wasWrong { logger.notice("\(identity.settings) is right again") }
        if areProblemsNews {
            for problem in identity.problems { logger.warning("\(identity.settings): \(problem)") }
        }
        guard isNews else { return [] }
        let credential = identity.identity.credential
        logger.notice(
            "the agent has sent a new identity",
            metadata: [
                "identity": "\(credential.id)", "until": "\(describe(time: credential.notAfter))",
                "federated": "\(identity.identity.federated.map(\.trustDomain.name).joined(separator: " "))",
            ]
        )
        do {
            return try await readInTurn { true }
        } catch {
            logger.error("the change was not taken over: \(error)")
            return []
        }
    }

    /// Told once, for as long as nothing else is wrong.
    private func complain(_ error: IdentityError) {
        let (isNews, until) = state.withLock { state in
            defer { state.workload.problem = error.message }
            return (state.workload.problem != error.message, state.workload.identity?.identity.credential.notAfter)
        }
        guard isNews else { return }
        let rest = until.map { "; the identity that is there holds until \(describe(time: $0))" } ?? ""
        logger.warning("\(error)\(rest)")
    }

    /// Says that the certificate ends, and nobody has sent a newer one.
    ///
    /// - Returns: Whether there was something to tell.
    private func tellIfLate(_ settings: WorkloadAPISettings?) -> Bool {
        let now = WallClock.system.seconds
        let told: (WorkloadIdentity, WorkloadIdentity.Lateness, String?)? = state.withLock { state in
            guard let settings, let identity = state.workload.identity, identity.settings == settings else {
                return nil
            }
            let lateness = identity.lateness(at: now)
            guard lateness > state.workload.toldLateness else { return nil }
            state.workload.toldLateness = lateness
            return (identity, lateness, state.workload.problem)
        }
        guard let (identity, lateness, problem) = told else { return false }
        let credential = identity.identity.credential
        let reason = problem.map { ": \($0)" } ?? ""
        if lateness == .expired {
            logger.error(
                "the SVID of \(credential.id) has expired, and peers refuse this node until its agent sends a newer one\(reason)"
            )
        } else {
            let left = describe(seconds: credential.notAfter.subtractingSaturating(now))
            logger.warning(
                "the SVID of \(credential.id) ends in \(left), and its agent has not sent a newer one\(reason)"
            )
        }
        return true
    }
}
