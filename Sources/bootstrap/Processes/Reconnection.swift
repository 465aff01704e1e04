import MeshPaths
import Streams

/// Asks for a path again and again while there is none, with growing pauses, for as long as `connect` runs. Confined to
/// its loop.
final class Reconnection {
    private let paths: PeerPaths
    private var timer: LoopTimer?
    private var failures = 0
    private var hasBeenUp = false
    /// Somebody would have to be asked, at whatever hour: only a new connection is a reason for that.
    private let mayTry: () -> Bool

    private static let firstPause = Duration.seconds(1)
    private static let longestPause = Duration.seconds(30)

    init(_ paths: PeerPaths, on loop: EventLoop, mayTry: @escaping () -> Bool) {
        self.paths = paths
        self.mayTry = mayTry
        timer = LoopTimer(on: loop) { [weak self] in self?.paths.start() }
    }

    func follow(_ change: PathChange) {
        switch change {
        case .using:
            hasBeenUp = true
            failures = 0
            timer?.cancel()
        case .unreachable:
            // The first failure of all ends the command.
            guard hasBeenUp, timer?.isScheduled == false, mayTry() else { return }
            timer?.schedule(after: min(Self.firstPause * (1 << min(failures, 5)), Self.longestPause))
            failures += 1
        case .refused, .relaying: break
        }
    }

    func stop() { timer?.cancel() }
}
