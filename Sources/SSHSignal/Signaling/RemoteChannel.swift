import Synchronization

/// The standard input and output of a command on another machine.
///
/// One task reads and one task writes at a time. ``close()`` ends both, from any task: what waits then throws.
package protocol RemoteChannel: AnyObject, Sendable {
    /// The next bytes of its standard output; nil at the end.
    func read() async throws -> [UInt8]?
    /// Returns once the bytes were accepted, in order.
    func write(_ bytes: [UInt8]) async throws
    /// The end of its standard input.
    func finish() async
    /// Ends the command.
    func close()
    /// The end of its standard error so far, safe for a terminal.
    func standardErrorText() async -> String
}

extension RemoteChannel {
    /// Runs `body`, and closes the channel when that takes longer than `limit`: no step of a conversation waits for
    /// ever.
    package func withDeadline<Result: Sendable>(
        _ limit: Duration,
        _ what: String,
        _ body: () async throws -> Result
    ) async throws -> Result {
        let timer = DeadlineTimer(limit) { [self] in close() }
        defer { timer.cancel() }
        do {
            return try await body()
        } catch {
            guard timer.hasFired else { throw error }
            throw SignalError(.timedOut, "\(what): no answer within \(limit.components.seconds) s")
        }
    }
}

/// Calls its handler once, unless it is cancelled before.
private final class DeadlineTimer: Sendable {
    private let state = Mutex<(fired: Bool, task: Task<Void, Never>?)>((false, nil))

    init(_ limit: Duration, _ handler: @escaping @Sendable () -> Void) {
        let task = Task { [weak self] in
            guard (try? await Task.sleep(for: limit)) != nil, let self else { return }
            self.state.withLock { $0.fired = true }
            handler()
        }
        state.withLock { $0.task = task }
    }

    var hasFired: Bool { state.withLock { $0.fired } }

    func cancel() { state.withLock { $0.task }?.cancel() }
}
