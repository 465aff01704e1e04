import MeshIdentity
import Streams

// The keys of issuers that are fetched.
extension Node {
    /// How long a start, or a reload, waits for keys that it has not seen yet: until then every token is refused.
    private static let patience = Duration.seconds(2)

    /// Looks for keys that are wanted, and waits a little for those that were never there.
    func lookForKeys() async throws {
        let missing = keyRings.all.map(\.ring).filter { !$0.isSettled }
        guard !missing.isEmpty || state.withLock({ $0.keyRefresh != nil }) else { return }
        let refresh = try await keyRefresh()
        try await refresh.loop.execute { refresh.withValue { $0.look() } }
        let deadline = ContinuousClock.now + Self.patience
        while ContinuousClock.now < deadline, missing.contains(where: { !$0.isSettled }) {
            try await Task.sleep(for: .milliseconds(5))
        }
    }

    private func keyRefresh() async throws -> LoopBound<KeyRefresh> {
        if let refresh = state.withLock({ $0.keyRefresh }) { return refresh }
        let (first, rings, logger) = (group.loops[0], keyRings, logger)
        let refresh = try await first.execute { LoopBound(KeyRefresh(rings, on: first, logger: logger), on: first) }
        return state.withLock { state in
            let kept = state.keyRefresh ?? refresh
            state.keyRefresh = kept
            return kept
        }
    }
}
