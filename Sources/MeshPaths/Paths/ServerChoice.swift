import Platform
import Streams

/// Which of several servers of one destination carries a stream, which are to be connected, and which are left alone
/// for a while. No I/O and no clock: events and times go in, actions come out. ``ServersSource`` carries them out.
///
/// ```
///            connect            came up                          failed again and again
///     idle ───────────→ trying ──────────→ up(since) ──────────────────────────────────→ up, ejected(until)
///      ↑                  │ failed            │ lost           back-off over              │
///      └── pause over ────┴───────────────────┘        ←──────────────────────────────────┘
/// ```
///
/// - A server is well while its connection is up: a real handshake, with its identity proven and a PING answered, made
///   it so. One that was lost is tried again at once, then after pauses that grow.
/// - A stream goes to the server with the fewest; equals take turns. One that comes back gets its share little by
///   little, over ``Timing/slowStart``.
/// - One that is up and answers requests with failures is ejected, longer each time, unless no other one would be left:
///   a server that fails is better than none.
struct ServerChoice<Server: Hashable> {
    struct Timing: Sendable {
        /// The first pause before a failed server is tried again; doubles up to ``longestPause``.
        var firstPause: Duration = .seconds(1)
        var longestPause: Duration = .seconds(30)
        /// Over this time one that comes back gets to its share.
        var slowStart: Duration = .seconds(30)
        /// So many requests in a row that came to nothing eject a server.
        var failuresInARow = 5
        /// How long the first time; doubles up to ``longestEjection``.
        var firstEjection: Duration = .seconds(10)
        var longestEjection: Duration = .seconds(300)
        /// A server that was well for this long is trusted again.
        var trust: Duration = .seconds(60)
    }

    enum State: Hashable {
        case idle
        case trying
        case up(since: UInt64)
        case waiting(until: UInt64)
    }

    private struct Member {
        let server: Server
        var state = State.idle
        /// In a row, without ``Timing/trust`` between them.
        var failures = 0
        var lastError: StreamError?
        /// It was lost, or ejected: since when it has its share to earn.
        var warmsUpFrom: UInt64?
        /// Requests in a row that came to nothing.
        var failedRequests = 0
        var ejections = 0
        var ejectedUntil: UInt64 = 0
        var lastEjection: UInt64 = 0

        var isUp: Bool { if case .up = state { true } else { false } }
        var isTrying: Bool { state == .trying }
    }

    private var members: [Member]
    private let timing: Timing
    /// Where the search for the one with the fewest streams begins: equals take turns.
    private var turn = 0

    /// - Parameter servers: At least one, each once.
    init(_ servers: [Server], timing: Timing = Timing()) {
        precondition(!servers.isEmpty, "a destination needs at least one server")
        members = servers.map { Member(server: $0) }
        self.timing = timing
    }

    /// One of them is up.
    var isUp: Bool { members.contains(where: \.isUp) }
    func isConnected(_ server: Server) -> Bool { members.contains { $0.server == server && $0.isUp } }
    /// Nothing is up, and nothing is being tried.
    var isDown: Bool { !members.contains { $0.isUp || $0.isTrying } }

    /// Whether one is being tried that is none of `tried`, and likely to come up: one that failed twice in a row is
    /// nothing to wait for, since it may take as long as a connection can.
    func mayComeUp(besides tried: [Server]) -> Bool {
        members.contains { $0.isTrying && $0.failures < 2 && !tried.contains($0.server) }
    }

    /// Takes `servers` in the place of those there were. Those that stay keep what is known of them.
    ///
    /// - Parameter servers: At least one, each once.
    mutating func replace(with servers: [Server]) {
        precondition(!servers.isEmpty, "a destination needs at least one server")
        members = servers.map { server in members.first { $0.server == server } ?? Member(server: server) }
        turn = 0
    }

    // MARK: What happens

    /// Streams are wanted. Returns whom to connect: everybody who is not, whatever pause there was, while none is up;
    /// else those whose pause is over.
    mutating func wanted(now: UInt64) -> [Server] {
        let isUrgent = !isUp
        return connect { member in
            switch member.state {
            case .idle: true
            case .waiting(let until): isUrgent || now >= until
            case .trying, .up: false
            }
        }
    }

    /// Time passed. Returns whom to connect; call at ``nextDeadline``.
    mutating func tick(now: UInt64) -> [Server] {
        connect { member in if case .waiting(let until) = member.state { now >= until } else { false } }
    }

    /// The way to them may be another now: nobody waits for a pause to end.
    mutating func hurry(now: UInt64) -> [Server] {
        connect { member in if case .waiting = member.state { true } else { false } }
    }

    private mutating func connect(_ isDue: (Member) -> Bool) -> [Server] {
        var due: [Server] = []
        for index in members.indices where isDue(members[index]) {
            members[index].state = .trying
            due.append(members[index].server)
        }
        return due
    }

    /// When somebody is to be tried again; nil while nobody waits for that.
    var nextDeadline: UInt64? {
        members.lazy.compactMap { if case .waiting(let until) = $0.state { until } else { nil } }.min()
    }

    /// Its handshake is done.
    mutating func cameUp(_ server: Server, now: UInt64) {
        guard let index = index(of: server), !members[index].isUp else { return }
        members[index].state = .up(since: now)
        // The first of all has nobody to share with, and one that was never lost nothing to prove.
        members[index].warmsUpFrom = members[index].failures > 0 ? now : nil
        members[index].lastError = nil
        members[index].failedRequests = 0
    }

    /// It could not be connected, or was lost. Returns whether to try it again at once: it was well, and may have been
    /// restarted.
    mutating func wentDown(_ server: Server, _ error: StreamError, now: UInt64) -> Bool {
        guard let index = index(of: server) else { return false }
        var isNew = false
        if case .up(let since) = members[index].state, now >= since &+ timing.trust.nanoseconds {
            members[index].failures = 0
        }
        if members[index].isUp, members[index].failures == 0 { isNew = true }
        members[index].failures += 1
        members[index].lastError = error
        members[index].state = isNew ? .trying : .waiting(until: now &+ pause(after: members[index].failures))
        return isNew
    }

    /// It has let go of a connection that nobody used, or this side has.
    mutating func rested(_ server: Server) {
        guard let index = index(of: server) else { return }
        members[index].state = .idle
    }

    /// Everything was let go.
    mutating func released() {
        for index in members.indices where members[index].isUp || members[index].isTrying {
            members[index].state = .idle
        }
    }

    // MARK: Requests

    /// The server for a stream; nil while none is up that was not asked for it before.
    ///
    /// - Parameters:
    ///   - tried: Those that have lost it, or could not serve it.
    ///   - load: How many streams a server has.
    mutating func next(besides tried: [Server], now: UInt64, load: (Server) -> Int) -> Server? {
        turn = (turn + 1) % members.count
        var best: (index: Int, isEjected: Bool, score: Double)?
        for offset in 0..<members.count {
            let index = (turn + offset) % members.count
            guard members[index].isUp, !tried.contains(members[index].server) else { continue }
            let isEjected = now < members[index].ejectedUntil
            let score = Double(load(members[index].server) + 1) / share(of: index, now: now)
            if let best, isEjected == best.isEjected ? score >= best.score : isEjected { continue }
            best = (index, isEjected, score)
        }
        return best.map { members[$0.index].server }
    }

    /// Between a tenth and all of what the others get.
    private func share(of index: Int, now: UInt64) -> Double {
        guard let start = members[index].warmsUpFrom else { return 1 }
        let passed = Double(now &- min(start, now)) / Double(timing.slowStart.nanoseconds)
        return min(1, max(0.1, passed))
    }

    /// A stream was opened there, or it has said by its policy why not.
    mutating func served(_ server: Server) {
        guard let index = index(of: server) else { return }
        members[index].failedRequests = 0
    }

    /// It was up and could not serve a request. Returns for how long it is ejected, if it is.
    mutating func failed(_ server: Server, now: UInt64) -> Duration? {
        guard let index = index(of: server) else { return nil }
        members[index].failedRequests += 1
        guard members[index].failedRequests >= timing.failuresInARow, now >= members[index].ejectedUntil,
            members.indices.contains(where: { $0 != index && members[$0].isUp && now >= members[$0].ejectedUntil })
        else { return nil }
        if now >= members[index].lastEjection &+ timing.trust.nanoseconds &+ length(members[index].ejections) {
            members[index].ejections = 0
        }
        members[index].ejections += 1
        let length = length(members[index].ejections)
        members[index].lastEjection = now
        members[index].ejectedUntil = now &+ length
        members[index].warmsUpFrom = now &+ length
        members[index].failedRequests = 0
        return .nanoseconds(Int64(clamping: length))
    }

    private func length(_ ejections: Int) -> UInt64 {
        guard ejections > 0 else { return 0 }
        return min(
            timing.firstEjection.nanoseconds << UInt64(min(ejections - 1, 16)),
            timing.longestEjection.nanoseconds
        )
    }

    /// Why none is up. That one of them is not who it must be is no matter of reachability: nothing else may be tried
    /// in its place.
    var error: StreamError {
        let isForged = members.contains { $0.lastError?.code == .authentication }
        let reasons = members.map { "\($0.server): \($0.lastError?.message ?? "not tried")" }
        return StreamError(
            isForged ? .authentication : .unreachable,
            "none of the \(members.count) servers works (\(reasons.joined(separator: "; ")))"
        )
    }

    private func index(of server: Server) -> Int? { members.firstIndex { $0.server == server } }

    private func pause(after failures: Int) -> UInt64 {
        let doubled = timing.firstPause.nanoseconds << UInt64(min(max(failures - 1, 0), 16))
        let base = min(doubled, timing.longestPause.nanoseconds)
        // ±20 %, so that a fleet does not return in step.
        return base / 10 * UInt64.random(in: 8...12)
    }
}

extension ServerChoice where Server == Authority {
    /// How each of them stands, in their order.
    func reports(now: UInt64) -> [ServerReport] {
        members.map { member in
            let state: ServerReport.State =
                switch member.state {
                case .idle: .idle
                case .trying: .trying
                case .up: now < member.ejectedUntil ? .ejected : .up
                case .waiting: .waiting
                }
            return ServerReport(address: member.server, state: state, failure: member.lastError?.description)
        }
    }
}

/// What it says of a server that it did not open a stream.
enum ServerVerdict: Hashable {
    /// It does: policy says no, which is a matter of who asks for what.
    case works
    /// It makes no difference who was asked.
    case saysNothing
    /// It does not do its part. Nobody else is asked for this stream: who wants it has waited for as long as a request
    /// may, or what came back is no answer.
    case fails
    /// The same, and another one may get there: no byte of the stream has been sent.
    case failsAskAnother

    init(_ failure: PathFailure) {
        guard case .refused(let error) = failure else {
            self = .failsAskAnother
            return
        }
        self =
            switch error.code {
            case .denied: .works
            case .badRequest, .loop, .authentication, .cancelled: .saysNothing
            case .refused, .unreachable, .limit, .draining, .reset, .closed: .failsAskAnother
            default: .fails
            }
    }
}
