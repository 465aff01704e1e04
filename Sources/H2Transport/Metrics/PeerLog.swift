package import Logging
package import Streams

/// Writes what a peer can cause as often as it likes, so that no peer fills a disk with it: so many lines in a while of
/// each peer and kind, and then one that says how many were left out. Safe from any thread.
package final class PeerLog: Sendable {
    private struct Kind: Hashable {
        let label: String
        let peer: String
        let name: String
    }

    private struct State: Sendable {
        /// What was asked for in the present while, of each kind.
        var counts: [Kind: Int] = [:]
        var level = Logger.Level.info
    }

    /// Lines of one peer and kind in each ``interval``.
    private let lines: Int
    private let interval: Duration
    private let logger: Logger
    private let loop: EventLoop
    private let state = Lock(State())

    /// Peers that are told apart. Whoever comes later is one of the others, until the next interval.
    private static let limit = 256

    /// - Parameters:
    ///   - logger: Where it writes.
    ///   - loop: Has the time.
    ///   - lines: Of each peer and kind in each interval.
    ///   - interval: After it, what was left out is told.
    package init(_ logger: Logger, on loop: EventLoop, lines: Int = 10, interval: Duration = .seconds(10)) {
        self.logger = logger
        self.loop = loop
        self.lines = lines
        self.interval = interval
    }

    /// Writes a line, or counts it.
    ///
    /// - Parameters:
    ///   - level: Of all lines of the kind.
    ///   - kind: The line's text, unless `text` says another one.
    ///   - peer: Who causes it, or what it is about; it stands in the line.
    ///   - label: What the line calls that.
    ///   - text: Where it differs from line to line.
    ///   - metadata: What else is in the line.
    package func log(
        _ level: Logger.Level,
        _ kind: String,
        of peer: @autoclosure () -> String,
        label: String = "peer",
        text: @autoclosure () -> String? = nil,
        _ metadata: @autoclosure () -> Logger.Metadata = [:]
    ) {
        guard logger.logLevel <= level else { return }
        var kind = Kind(label: label, peer: peer(), name: kind)
        let (isFirst, count) = state.withLock { state in
            let isFirst = state.counts.isEmpty
            if state.counts.count >= Self.limit && state.counts[kind] == nil {
                kind = Kind(label: label, peer: "others", name: kind.name)
            }
            state.counts[kind, default: 0] += 1
            state.level = max(state.level, level)
            return (isFirst, state.counts[kind] ?? 0)
        }
        if isFirst {
            let (loop, interval) = (loop, interval)
            loop.submit { [weak self] in
                LoopTimer(on: loop) { self?.tellWhatWasLeftOut() }.schedule(after: interval)
            }
        }
        guard count <= lines else { return }
        var metadata = metadata()
        metadata[kind.label] = "\(kind.peer)"
        logger.log(level: level, "\(text() ?? kind.name)", metadata: metadata)
    }

    private func tellWhatWasLeftOut() {
        let (counts, level) = state.withLock { state in
            defer { state = State() }
            return (state.counts, state.level)
        }
        for (kind, count) in counts where count > lines {
            logger.log(
                level: level,
                "\(kind.name), again and again",
                metadata: [kind.label: "\(kind.peer)", "lines left out": "\(count - lines)"]
            )
        }
    }
}
