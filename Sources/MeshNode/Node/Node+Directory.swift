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
                    group.addTask { [self] in await follow(settings) }
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

    private func follow(_ settings: DirectorySettings) async {
        let unsaved = UnsavedDirectory()
        state.withLock { $0.unsavedDirectory = unsaved }
        // Beside it: what holds waits for no disk, and of what comes meanwhile the last is enough.
        async let saving: Void = {
            while let document = await unsaved.next() { save(document, from: settings) }
        }()
        await DirectoryStore(settings).follow { await take($0, from: settings) }
        unsaved.end()
        await saving
        state.withLock { if $0.unsavedDirectory === unsaved { $0.unsavedDirectory = nil } }
        if let document = unsaved.close() { save(document, from: settings) }
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
                "from": "\(known.source)",
                "revision": "\(known.revision)", "endpoints": "\(known.content.endpointCount)",
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
            state.withLock { state in
                state.directoryStatus.heardAt = now
                state.refusedDirectory = nil
            }
            guard let present = state.withLock({ $0.directory }) else {
                return complain("\(settings): there is nothing there yet; `bootstrap mesh put` writes it")
            }
            complain(
                "\(settings): it is empty, and was not before: somebody has wiped it. The node goes on with revision \(present.revision), and "
                    + "`bootstrap mesh put` writes it again"
            )
        case .document(let document):
            state.withLock { state in
                state.directoryStatus.heardAt = now
                state.refusedDirectory = nil
            }
            do {
                let isNew = try await take(document, from: settings)
                // A node may have started with it, and not have saved it yet.
                if isNew || !isSaved(document, from: settings) { keep(document, from: settings) }
                isRight(settings)
            } catch {
                // What is not followed any more is nobody's problem.
                guard isFollowed(settings) else { return }
                state.withLock { $0.refusedDirectory = (document, settings) }
                complain("\(settings): nothing of it is taken: \(error)", isRefusal: true)
            }
        }
    }

    /// A directory that was refused may be right with what a reload has brought, as roots that have signed it: its
    /// store says nothing until it changes.
    func takeRefusedDirectory() async {
        guard let (document, settings) = state.withLock({ $0.refusedDirectory }), isFollowed(settings) else { return }
        /// Its store has said something else meanwhile.
        @Sendable func isLatest(_ state: State) -> Bool { state.refusedDirectory?.0.manifest == document.manifest }
        do {
            if try await take(document, from: settings) { keep(document, from: settings) }
            let isDone = state.withLock { state in
                guard isLatest(state) else { return false }
                state.refusedDirectory = nil
                return true
            }
            if isDone { isRight(settings) }
        } catch {
            guard isFollowed(settings), state.withLock({ isLatest($0) }) else { return }
            complain("\(settings): nothing of it is taken: \(error)", isRefusal: true)
        }
    }

    private func isFollowed(_ settings: DirectorySettings) -> Bool {
        state.withLock { $0.configuration.directory == settings }
    }

    private func isRight(_ settings: DirectorySettings) {
        let wasWrong = state.withLock { state in
            defer { state.directoryStatus.problem = nil }
            return state.directoryStatus.problem != nil
        }
        if wasWrong { logger.notice("\(settings) is right again") }
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

    /// Whether it holds now, and did not before.
    private func take(_ document: SignedDirectory, from settings: DirectorySettings) async throws -> Bool {
        guard document.manifest != state.withLock({ $0.directory?.manifest }) else { return false }
        let taken = Lock<DirectoryInForce?>(nil)
        try await inTurn { [self] in
            let next = try await use(document, from: settings)
            taken.withLock { $0 = next }
        }
        guard let next = taken.withLock({ $0 }) else { return false }
        logger.notice(
            "the directory has changed",
            metadata: [
                "revision": "\(next.revision)", "endpoints": "\(next.content.endpointCount)",
                "policies": "\(next.content.policies.count)",
            ]
        )
        return true
    }

    /// Has it hold for every stream from now on; those that are open are decided again. Verified in its turn: a reload
    /// before it may have brought other roots, or have dropped the directory. nil: it holds already.
    private func use(_ document: SignedDirectory, from settings: DirectorySettings) async throws -> DirectoryInForce? {
        let workers = state.withLock { $0.workers }
        guard !workers.isEmpty else { throw StreamError(.closed, "the node has not started") }
        let present = try await snapshot(of: workers)
        guard present.own.directory == settings else {
            throw StreamError(.closed, "the configuration names another directory now, or none")
        }
        let former = state.withLock { $0.directory }
        guard document.manifest != former?.manifest else { return nil }
        let next = try DirectoryInForce(
            document,
            from: settings.description,
            bundle: present.credential.bundle,
            after: former
        )
        let snapshot = try NodeSnapshot(
            configuration: present.own,
            directory: next,
            identity: present.identity,
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
        return next
    }

    /// Whether a start without the directory would find it.
    private func isSaved(_ document: SignedDirectory, from settings: DirectorySettings) -> Bool {
        let configuration = state.withLock { $0.configuration }
        guard configuration.directory == settings,
            let path = configuration.savedDirectory(beside: configurationFile)
        else { return true }
        return (try? FileDirectory(path).read())?.manifest == document.manifest
    }

    /// Has it saved soon.
    private func keep(_ document: SignedDirectory, from settings: DirectorySettings) {
        if let unsaved = state.withLock({ $0.unsavedDirectory }), unsaved.put(document) { return }
        save(document, from: settings)
    }

    private func save(_ document: SignedDirectory, from settings: DirectorySettings) {
        let configuration = state.withLock { $0.configuration }
        guard configuration.directory == settings,
            let path = configuration.savedDirectory(beside: configurationFile)
        else { return }
        do throws(FileError) {
            try AtomicFile.write(document.file, to: path, mode: 0o600)
        } catch {
            logger.warning(
                "what the directory says is not kept, and a start without it would know nothing: \(error); set 'state' of 'directory'"
            )
        }
    }
}
