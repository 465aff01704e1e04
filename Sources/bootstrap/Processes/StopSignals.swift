import Synchronization
import UnixSignals

/// The signals that end `connect` in order. Trapped once for the process, from when they are first waited for: whoever
/// lets go of a trap and makes another meets what is left of the first, and the signal kills.
final class StopSignals: Sendable {
    private struct State {
        var hasCome = false
        var waiting: [AsyncStream<Void>.Continuation] = []
    }

    static let ofThisProcess = Task { await StopSignals() }

    private let state = Mutex(State())

    private init() async {
        let signals = await UnixSignalsSequence(trapping: trappable([.sigint, .sigterm, .sighup, .sigusr1, .sigusr2]))
        Task { for await _ in signals { come() } }
    }

    private func come() {
        let waiting = state.withLock { state in
            state.hasCome = true
            defer { state.waiting = [] }
            return state.waiting
        }
        for continuation in waiting { continuation.finish() }
    }

    /// Until one has come, or the task is cancelled.
    func wait() async {
        let (stream, continuation) = AsyncStream<Void>.makeStream()
        state.withLock { state in
            if state.hasCome { continuation.finish() } else { state.waiting.append(continuation) }
        }
        for await _ in stream {}
    }
}
