/// How far a node is that was started: up, gone, or late. A value without I/O.
struct NodeStart {
    /// What the one who waits has seen.
    struct Observation {
        /// What the node has written to its standard output.
        var output: String
        /// Whether its listener takes connections; asked for only once it has named one.
        var accepts: (_ listener: String) -> Bool
        /// Whether the process has ended.
        var hasEnded: () -> Bool
        /// False: it is not wanted any more.
        var isWanted: Bool
    }

    enum Verdict: Hashable {
        case wait
        /// Its HBONE listener accepts at this address.
        case ready(listener: String)
        case ended
        case late
    }

    /// Long enough for a small device that starts from a slow disk.
    static let limit = Duration.seconds(20)

    private let deadline: ContinuousClock.Instant

    init(at now: ContinuousClock.Instant) { deadline = now + Self.limit }

    func verdict(_ seen: Observation, at now: ContinuousClock.Instant) -> Verdict {
        if let listener = Self.listener(in: seen.output), seen.accepts(listener) { return .ready(listener: listener) }
        if seen.hasEnded() { return .ended }
        return now < deadline && seen.isWanted ? .wait : .late
    }

    /// Where the HBONE listener accepts, by the node's own word: a line `ready hbone ADDRESS`. nil before.
    static func listener(in output: String) -> String? {
        for line in output.split(separator: "\n") {
            let words = line.split(separator: " ")
            if words.count == 3, words[0] == "ready", words[1] == "hbone" { return String(words[2]) }
        }
        return nil
    }
}
