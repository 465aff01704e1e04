import MeshPolicy
import Streams

/// Chooses which path carries new streams to one peer. No I/O and no clock: events and times go in, actions come out.
///
/// Candidates are ordered by preference (`h2`, `h2-over-ssh`, `ssh`; there may be several of one kind, and more may
/// become known). Each goes through
///
/// ```
///            connect            came up              stable for 2 s, or nothing better in use
///     idle ───────────→ trying ──────────→ up(since) ───────────────────────────────────────→ in use
///      ↑                  │ failed            │ lost                                            │ lost
///      └── back-off over ─┴───────────────────┴─────────────────────────────────────────────────┘
/// ```
///
/// At the start the best candidate gets a head start over the next one (RFC 8305); the first to come up is used at
/// once. Later, a better one is taken only after it proved stable, and one that died is left at once. Probing for the
/// better path never stops.
///
/// A failed authentication refuses the peer on every path: fallback is for reachability only. The refusal holds until
/// the very path that failed has authenticated the peer after all (its certificate was renewed); no other path is tried
/// meanwhile.
struct PathSelector {
    struct Timing: Sendable {
        /// How long a candidate may try alone before the next one is tried too.
        var headStart: Duration = .milliseconds(250)
        /// How long a better path must have been up before streams move to it.
        var stability: Duration = .seconds(2)
        /// The first pause before a failed candidate is tried again; doubles up to ``longestPause``.
        var firstPause: Duration = .seconds(1)
        /// The longest pause before a failed candidate is tried again.
        ///
        /// What it was made longer for may be over at any moment, and nothing says so: this is how long a better path
        /// is missed at most.
        var longestPause: Duration = .seconds(10)
        /// A path that was up for this long is trusted again: earlier failures no longer lengthen the pause.
        var trust: Duration = .seconds(60)
        /// After so long without a word of a better path it is asked for again: longer than a connection and its
        /// handshakes may take. Nothing is lost by it, and a path whose answer got lost is not missed for ever.
        var patience: Duration = .seconds(30)
    }

    enum Action: Equatable {
        /// Establish this path; answer with ``PathSelector/cameUp(_:now:)`` or ``PathSelector/wentDown(_:_:now:)``.
        case connect(PathID)
        /// New streams go over this path from now on. `instead` is the path used before, and why it was left.
        case use(PathID, instead: PathID?, reason: String)
        /// No path is up and none is left to try at once: streams that wait fail with this.
        case unreachable(StreamError)
        /// The peer must not be talked to on any path.
        case refused(StreamError)
    }

    enum State: Equatable {
        case idle
        case trying(since: UInt64)
        case up(since: UInt64)
        case waiting(until: UInt64)
    }

    private struct Refusal {
        var error: StreamError
        var path: PathID
        /// Asking again and again is of no use to anybody.
        var retryAt: UInt64
    }

    struct Candidate {
        let path: PathID
        var state = State.idle
        var failures = 0
        var lastError: StreamError?
    }

    private(set) var candidates: [Candidate]
    private(set) var inUse: PathID?
    /// The peer failed to prove who it is, on this path.
    private var refusal: Refusal?
    private let timing: Timing
    /// Why the path before was left; becomes the reason of the next ``Action/use(_:instead:reason:)``.
    private var lost: (PathID, String)?
    /// Was in use, until it was let go because nobody needed it.
    private var resting: PathID?

    /// - Parameter paths: In order of preference; at least one.
    init(paths: [PathID], timing: Timing = Timing()) {
        precondition(!paths.isEmpty, "a peer needs at least one path")
        candidates = paths.map { Candidate(path: $0) }
        self.timing = timing
    }

    /// More ways have become known. Each is a candidate behind those of its kind and before those of a lesser one.
    mutating func add(_ paths: [PathID]) {
        for path in paths where index(of: path) == nil {
            let rank = path.transport.rank
            let place = candidates.firstIndex { $0.path.transport.rank > rank } ?? candidates.endIndex
            candidates.insert(Candidate(path: path), at: place)
        }
    }

    /// A way is none any more. One that is up stays for as long as it is.
    ///
    /// - Returns: Whether it is gone.
    mutating func remove(_ path: PathID) -> Bool {
        guard let index = index(of: path) else { return true }
        guard candidates.count > 1, inUse != path, refusal?.path != path, !candidates[index].isUp else { return false }
        candidates.remove(at: index)
        return true
    }

    /// The path for a stream that goes on: the one in use; where that resumes none, the best of the others that are up.
    var resuming: PathID? {
        guard let inUse, !inUse.transport.resumesStreams else { return inUse }
        return candidates.first { $0.isUp && $0.path.transport.resumesStreams }?.path ?? inUse
    }

    /// A stream is wanted: makes sure that something is being tried.
    mutating func wanted(now: UInt64) -> [Action] {
        if let refusal { return retry(refusal, now: now) }
        guard inUse == nil else { return [] }
        guard !candidates.contains(where: \.isTrying) else { return [] }
        // Nobody is trying: pauses are for background probing, not for somebody who waits.
        return tryNext(after: nil, now: now)
    }

    /// A path finished its real handshake.
    mutating func cameUp(_ path: PathID, now: UInt64) -> [Action] {
        guard let index = index(of: path), refusal == nil || refusal?.path == path else { return [] }
        refusal = nil
        candidates[index].state = .up(since: now)
        candidates[index].lastError = nil
        let actions: [Action] =
            if let current = inUse, let currentIndex = self.index(of: current) {
                // A worse path that comes up late is kept warm as the fallback; a better one waits for its proof.
                index < currentIndex && timing.stability == .zero ? use(index, now: now) : []
            } else {
                use(index, now: now)
            }
        return actions + tryInside(of: path, now: now)
    }

    /// What goes through the session of a path that has come up had failed for want of it: its pause says nothing now.
    private mutating func tryInside(of path: PathID, now: UInt64) -> [Action] {
        guard path.transport == .ssh,
            let index = candidates.firstIndex(where: { $0.path.transport == .h2OverSSH }),
            case .waiting = candidates[index].state
        else { return [] }
        candidates[index].state = .trying(since: now)
        return [.connect(candidates[index].path)]
    }

    /// A path could not be established, or was lost.
    ///
    /// - Parameter isWanted: Somebody used it, or waits: where it was in use and no other one is up, it is tried again
    ///   at once.
    mutating func wentDown(_ path: PathID, _ error: StreamError, isWanted: Bool = true, now: UInt64) -> [Action] {
        guard let index = index(of: path) else { return [] }
        if error.code == .authentication || refusal?.path == path {
            return refuse(path, error.code == .authentication ? error : refusal?.error ?? error, now: now)
        }
        guard refusal == nil else { return [] }
        if case .up(let since) = candidates[index].state, now >= since &+ timing.trust.nanoseconds {
            candidates[index].failures = 0
        }
        candidates[index].failures += 1
        candidates[index].lastError = error
        candidates[index].state = .waiting(until: now &+ pause(after: candidates[index].failures))
        if inUse == path {
            inUse = nil
            lost = (path, error.message)
            if let next = candidates.firstIndex(where: \.isUp) { return use(next, now: now) }
            guard isWanted else { return [] }
            // A server that restarted is back at once; the next path follows after the head start, or when this fails.
            // One that had fallen silent has had its time: the next path is tried beside it.
            candidates[index].state = .trying(since: now)
            return [.connect(path)] + (error.code == .timedOut ? tryNext(after: index, now: now) : [])
        }
        guard inUse == nil else { return [] }
        if resting == path {
            resting = nil
            lost = (path, error.message)
        }
        let actions = tryNext(after: index, now: now)
        if actions.isEmpty && !candidates.contains(where: \.isTrying) { return [.unreachable(summary)] }
        return actions
    }

    /// The path in use has not answered yet: where it must be left, the best of those behind it that streams can go on
    /// over is to be there. A pause is kept, and what is up or being tried is enough.
    ///
    /// - Parameter overSSH: What there is only with a login, or what there is without one.
    mutating func suspected(_ path: PathID, overSSH: Bool = true, now: UInt64) -> [Action] {
        guard refusal == nil, inUse == path, let index = index(of: path),
            let next = candidates.indices[(index + 1)...].first(where: { index in
                let transport = candidates[index].path.transport
                return transport.resumesStreams && (transport == .h2OverSSH) == overSSH
            })
        else { return [] }
        switch candidates[next].state {
        case .up, .trying: return []
        case .waiting(let until) where now < until: return []
        case .idle, .waiting: break
        }
        candidates[next].state = .trying(since: now)
        return [.connect(candidates[next].path)]
    }

    /// The peer has let go of a path that nobody used. It is no failure, and no reason to move to another path; nor is
    /// it a reason to dial: the next stream does, when somebody wants one.
    mutating func rested(_ path: PathID, now: UInt64) -> [Action] {
        guard let index = index(of: path), refusal == nil else { return [] }
        guard inUse == path else {
            // A better path that does not stay is not to be had at every moment.
            if case .up = candidates[index].state { candidates[index].failures += 1 }
            candidates[index].state = .waiting(until: now &+ pause(after: candidates[index].failures))
            return []
        }
        candidates[index].state = .idle
        inUse = nil
        resting = path
        return []
    }

    /// Nobody has used any path for a while, and all were let go, those that were being tried as well: the next stream
    /// starts anew.
    mutating func released() {
        guard refusal == nil else { return }
        for index in candidates.indices where candidates[index].isUp || candidates[index].isTrying {
            candidates[index].state = .idle
        }
        resting = inUse ?? resting
        inUse = nil
        lost = nil
    }

    /// The network has changed: what failed before may work now, so that no pause is kept for what would be tried again
    /// in any case. How often this happens is for the caller to limit.
    ///
    /// - Parameter isWanted: Somebody waits for a path, or has streams that do: where none is in use, the first one is
    ///   tried at once.
    mutating func networkChanged(isWanted: Bool, now: UInt64) -> [Action] {
        guard refusal == nil else { return [] }
        for index in candidates.indices {
            candidates[index].failures = 0
            if case .waiting = candidates[index].state { candidates[index].state = .waiting(until: now) }
        }
        if inUse != nil { return tick(now: now) }
        guard isWanted, candidates.first?.isTrying == false else { return [] }
        return tryNext(after: nil, now: now)
    }

    /// Time passed; call when ``nextDeadline`` is reached.
    mutating func tick(now: UInt64) -> [Action] {
        guard refusal == nil else { return [] }
        var actions: [Action] = []
        // A better path that has been up long enough takes over.
        if let current = inUse, let currentIndex = index(of: current),
            let better = candidates[..<currentIndex].indices.first(where: { isStable($0, now: now) })
        {
            actions += use(better, now: now)
        }
        // The head start of the last one tried is over.
        if inUse == nil, let trying = candidates.lastIndex(where: \.isTrying),
            case .trying(let since) = candidates[trying].state, now >= since &+ timing.headStart.nanoseconds
        {
            actions += tryNext(after: trying, now: now)
        }
        // Better paths are probed again when their pause is over.
        let limit = inUse.flatMap { index(of: $0) } ?? 0
        for index in candidates.indices where index < limit {
            if case .waiting(let until) = candidates[index].state, now >= until {
                candidates[index].state = .trying(since: now)
                actions.append(.connect(candidates[index].path))
            } else if case .trying(let since) = candidates[index].state,
                now >= since &+ timing.patience.nanoseconds
            {
                candidates[index].state = .trying(since: now)
                actions.append(.connect(candidates[index].path))
            } else if case .idle = candidates[index].state {
                candidates[index].state = .trying(since: now)
                actions.append(.connect(candidates[index].path))
            }
        }
        return actions
    }

    /// When ``tick(now:)`` has something to do; nil when only an event can change anything.
    var nextDeadline: UInt64? {
        guard refusal == nil else { return nil }
        var deadline: UInt64?
        func consider(_ time: UInt64) { deadline = min(deadline ?? time, time) }
        let limit = inUse.flatMap { index(of: $0) }
        for (index, candidate) in candidates.enumerated() {
            switch candidate.state {
            case .up(let since):
                if let limit, index < limit { consider(since &+ timing.stability.nanoseconds) }
            case .trying(let since):
                if limit == nil, hasUntried(after: index) { consider(since &+ timing.headStart.nanoseconds) }
                if let limit, index < limit { consider(since &+ timing.patience.nanoseconds) }
            case .waiting(let until):
                if let limit, index < limit { consider(until) }
            case .idle:
                if let limit, index < limit { consider(0) }
            }
        }
        return deadline
    }

    // MARK: -

    private mutating func refuse(_ path: PathID, _ error: StreamError, now: UInt64) -> [Action] {
        for index in candidates.indices {
            candidates[index].state = .idle
            if candidates[index].path == path { candidates[index].lastError = error }
        }
        refusal = Refusal(error: error, path: path, retryAt: now &+ timing.firstPause.nanoseconds)
        inUse = nil
        return [.refused(error)]
    }

    private mutating func retry(_ refusal: Refusal, now: UInt64) -> [Action] {
        guard let index = index(of: refusal.path), !candidates[index].isTrying else { return [] }
        guard now >= refusal.retryAt else { return [.refused(refusal.error)] }
        candidates[index].state = .trying(since: now)
        return [.connect(refusal.path)]
    }

    private mutating func use(_ index: Int, now: UInt64) -> [Action] {
        let path = candidates[index].path
        let previous = inUse ?? lost?.0 ?? resting
        let reason: String
        if let lost {
            // Alone, the reason for its loss would look like one of now.
            reason = lost.0 == path ? "connected again (\(lost.1))" : lost.1
        } else if inUse == nil, let resting {
            reason = resting == path ? "connected again" : "\(resting) was let go, and has not answered yet"
        } else if previous == nil {
            reason = "first path that answered"
        } else {
            reason = "\(path) is back and stable"
        }
        lost = nil
        resting = nil
        inUse = path
        return [.use(path, instead: previous == path ? nil : previous, reason: reason)]
    }

    /// Starts the next candidate that is not being tried already, or takes it where it is up.
    private mutating func tryNext(after index: Int?, now: UInt64) -> [Action] {
        let start = index.map { $0 + 1 } ?? 0
        guard let next = candidates.indices[start...].first(where: { !candidates[$0].isTrying }) else { return [] }
        guard !candidates[next].isUp else { return use(next, now: now) }
        candidates[next].state = .trying(since: now)
        return [.connect(candidates[next].path)]
    }

    private func hasUntried(after index: Int) -> Bool {
        candidates[(index + 1)...].contains { !$0.isTrying }
    }

    private func isStable(_ index: Int, now: UInt64) -> Bool {
        guard case .up(let since) = candidates[index].state else { return false }
        return now >= since &+ timing.stability.nanoseconds
    }

    private func index(of path: PathID) -> Int? {
        candidates.firstIndex { $0.path == path }
    }

    private func pause(after failures: Int) -> UInt64 {
        let doubled = timing.firstPause.nanoseconds << UInt64(min(max(failures - 1, 0), 16))
        let base = min(doubled, timing.longestPause.nanoseconds)
        // ±20 %, so that a fleet does not return in step.
        return base / 10 * UInt64.random(in: 8...12)
    }

    private var summary: StreamError {
        let reasons = candidates.map { "\($0.path): \($0.lastError?.message ?? "not tried")" }
        return StreamError(.unreachable, "unreachable on every path (\(reasons.joined(separator: "; ")))")
    }
}

extension PathSelector.Candidate {
    var isTrying: Bool { if case .trying = state { true } else { false } }
    var isUp: Bool { if case .up = state { true } else { false } }
}

extension Transport {
    /// The best has the least.
    fileprivate var rank: Int { Self.allCases.firstIndex(of: self) ?? Self.allCases.count }

    /// Streams that have lost their carrier go on over it (docs/protocol.md, 2.10).
    var resumesStreams: Bool {
        switch self {
        case .h2, .h2Reverse, .h2ViaGateway, .h2OverSSH: true
        case .ssh: false
        }
    }
}
