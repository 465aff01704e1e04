import Synchronization

/// `connect` is ready once a path works and every port of the far side was answered for: then it may go to the
/// background, and whoever waits for the service is told.
final class Readiness: Sendable {
    private struct State {
        var isConnected = false
        var remotes: Int
        var isReady = false
    }

    private let state: Mutex<State>

    /// - Parameter remotes: How many ports of the far side there are to be.
    init(remotes: Int) { state = Mutex(State(remotes: remotes)) }

    /// - Parameter line: About the path.
    func using(_ line: String) {
        if take({ $0.isConnected = true }) {
            Self.announce(line)
        } else if state.withLock({ $0.isReady }) {
            ServiceNotification.ofThisProcess.status(line)
        }
    }

    /// The far side listens, or has said no.
    func answered() { if take({ $0.remotes -= 1 }) { Self.announce("connected") } }

    /// Whether it is this that made it ready.
    private func take(_ change: (inout State) -> Void) -> Bool {
        state.withLock { state in
            change(&state)
            guard !state.isReady, state.isConnected, state.remotes <= 0 else { return false }
            state.isReady = true
            return true
        }
    }

    private static func announce(_ status: String) {
        Background.enter()
        ServiceNotification.ofThisProcess.ready(status)
    }
}
