import Logging
import MeshDirectory
import MeshIdentity
import MeshPaths
import Platform
import Streams

// The directory of the mesh: what it adds to the configuration, for as long as it is right.
extension Node {
    /// Follows the directory that the configuration names, whichever that is at the time, until the task is cancelled.
    package func followDirectory() async {
        while !Task.isCancelled {
            let settings = state.withLock { $0.configuration.directory }
            await withTaskGroup(of: Void.self) { group in
                if let settings {
                    group.addTask { [self] in
                        await DirectoryStore(settings).follow { await take($0, from: settings) }
                    }
                }
                group.addTask { [self] in
                    while state.withLock({ $0.configuration.directory }) == settings,
                        (try? await Task.sleep(for: .milliseconds(500))) != nil
                    {}
                }
                await group.next()
                group.cancelAll()
            }
        }
    }

    /// What is known when the node starts: nobody is waited for.
    func knownDirectory(of configuration: NodeConfiguration, _ credential: Credential) -> DirectoryInForce? {
        let known = configuration.knownDirectory(beside: configurationFile, bundle: credential.bundle) { problem in
            logger.error("\(problem)")
        }
        guard let known else { return nil }
        logger.notice(
            "the directory's last good state holds",
            metadata: [
                "revision": "\(known.revision)", "endpoints": "\(known.content.endpoints.count)",
                "policies": "\(known.content.policies.count)",
            ]
        )
        return known
    }

    /// What of a directory holds with this configuration and this credential.
    func directory(for configuration: NodeConfiguration, _ credential: Credential) -> DirectoryInForce? {
        guard configuration.directory != nil, let present = state.withLock({ $0.directory }),
            present.manifest.domain == credential.id.trustDomain.name
        else { return nil }
        return present
    }

    private func take(_ event: DirectoryStore.Event, from settings: DirectorySettings) async {
        let now = WallClock.system.seconds
        switch event {
        case .failed(let error):
            complain("\(settings): \(error.message)", isRefusal: error.code != .unreachable)
        case .missing:
            state.withLock { $0.directoryStatus.heardAt = now }
            guard let present = state.withLock({ $0.directory }) else {
                return complain("\(settings): there is nothing there yet; `bootstrap mesh put` writes it")
            }
            complain(
                "\(settings): it is empty, and was not before: somebody has wiped it. The node goes on with revision \(present.revision), and "
                    + "`bootstrap mesh put` writes it again"
            )
        case .document(let document):
            state.withLock { $0.directoryStatus.heardAt = now }
            do {
                try await take(document, from: settings)
                let wasWrong = state.withLock { state in
                    defer { state.directoryStatus.problem = nil }
                    return state.directoryStatus.problem != nil
                }
                if wasWrong { logger.notice("\(settings) is right again") }
            } catch {
                complain("\(settings): nothing of it is taken: \(error)", isRefusal: true)
            }
        }
    }

    /// Told once, for as long as nothing else is wrong.
    private func complain(_ problem: String, isRefusal: Bool = false) {
        let isNews = state.withLock { state in
            guard state.directoryStatus.problem != problem else { return false }
            state.directoryStatus.problem = problem
            if isRefusal { state.directoryStatus.refused += 1 }
            return true
        }
        if isNews { logger.error("\(problem)") }
    }

    private func take(_ document: SignedDirectory, from settings: DirectorySettings) async throws {
        guard let credential = await credential() else { throw StreamError(.closed, "the node has not started") }
        let present = state.withLock { $0.directory }
        guard document.manifest != present?.manifest else { return }
        let next = try DirectoryInForce(
            document,
            from: settings.description,
            bundle: credential.bundle,
            after: present
        )
        try await inTurn { [self] in try await use(next) }
        logger.notice(
            "the directory has changed",
            metadata: [
                "revision": "\(next.revision)", "endpoints": "\(next.content.endpoints.count)",
                "policies": "\(next.content.policies.count)",
            ]
        )
        save(document)
    }

    /// Has it hold for every stream from now on; those that are open are decided again.
    private func use(_ next: DirectoryInForce) async throws {
        let workers = state.withLock { $0.workers }
        guard !workers.isEmpty else { throw StreamError(.closed, "the node has not started") }
        let present = try await snapshot(of: workers)
        let snapshot = try NodeSnapshot(
            configuration: present.own,
            directory: next,
            credential: present.credential,
            listenerAddresses: state.withLock { $0.addresses },
            serviceAddresses: await addresses(of: state.withLock { $0.services }),
            accessLog: present.accessLog,
            metrics: present.configuration.connections.metrics,
            keeping: present,
            warn: { [logger] in logger.warning("\($0)") }
        )
        state.withLock { state in
            state.directory = next
            state.directoryStatus.changes += 1
        }
        try await hand(snapshot, to: workers)
    }

    private func save(_ document: SignedDirectory) {
        let configuration = state.withLock { $0.configuration }
        guard let path = configuration.savedDirectory(beside: configurationFile) else { return }
        do throws(FileError) {
            try AtomicFile.write(document.file, to: path, mode: 0o600)
        } catch {
            logger.warning(
                "what the directory says is not kept, and a start without it would know nothing: \(error); set 'state' of 'directory'"
            )
        }
    }
}
