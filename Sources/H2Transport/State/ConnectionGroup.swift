import Streams

/// The connections that lead to one place, and the requests that wait for one: which connection takes a stream, when
/// another one is made, when one is let go. The rules only, for ``ConnectionGroupDriver`` to carry out: no I/O, no
/// clock; every time is on the loop's clock.
///
/// ```
///   admit ──→ a connection with room: start
///     └─ none: waiting ── start, when one has room
///               ↑  └─ dial: one at a time
///               └── refused unseen, or lost: requeue, at most `attempts` times
/// ```
///
/// - A stream goes to the first connection that has room and whose window is not stalled, so that those behind it
///   become idle.
/// - Another one is made when there is none for a request that waits, up to a limit. Nothing is dialled for nobody; but
///   a group that is ``Keeping/ready(askAfter:)`` replaces one that its peer drains while streams are open on it.
/// - How many streams a peer allows is not known before its SETTINGS. Until then a connection takes as many as
///   ``H2Configuration/assumedPeerStreams``, which is one: what else there is waits here, and not inside of the engine,
///   where it could not be given to another connection any more. Nor is another connection made meanwhile. Without
///   SETTINGS the connection is given up after ``Rules/settlingTime``.
/// - A connection that is too old stays in use until the one that replaces it is up. One without streams is let go.
/// - A connection that ends before it has carried a stream counts as an attempt of everybody who waits, and the next
///   one is made after a pause, see ``DialBackoff``.
/// - Where the last connection of a group that is kept ready is lost, or in doubt, who waits is told at once: its owner
///   knows another way. Streams that are open on a connection in doubt stay on it; it is used again as soon as its peer
///   answers.
/// - What a peer refuses although it had announced more (REFUSED_STREAM) waits for another connection, or for room on
///   this one, as long as a request may wait for its answer.
struct ConnectionGroup<Connection: GroupedConnection, Request> {
    private struct Member {
        enum Age { case young, tooOld, replaced }

        let connection: Connection
        let since: UInt64
        /// Since when it has had no stream, at least.
        var idleSince: UInt64
        var age = Age.young
        /// This side lets it go, or it has been accounted for: its end says nothing more about the peer.
        var isSpent = false
        /// It was in doubt when somebody wanted a stream: the owner was told that the group is down.
        var isForsaken = false

        var isUsable: Bool { !connection.isDraining && connection.doubt == nil }
        var isBarren: Bool { !connection.hasServed }
    }

    private enum Standing: Hashable {
        /// Nobody asked for it, or it was told that it is down.
        case released
        /// The owner wants a connection, whoever waits.
        case sought
        case up
        /// Down, which has to be told.
        case lost
    }

    var rules: Rules
    private var members: [Member] = []
    private var waiting = RequestQueue<Waiting>()
    private var failed = RequestQueue<(Request, StreamError)>()
    private var isDialing = false
    private var standing = Standing.released
    private var loss = Loss()
    /// The last connection is drained by its peer, with streams open: whoever has them will want more.
    private var wantsReplacement = false
    /// When the next attempt to replace a connection that is too old may be made.
    private var replacesAt: UInt64 = 0
    private(set) var backoff: DialBackoff
    private var isClosed = false

    /// Pause before another attempt to replace a connection that has become too old, and still works.
    static var replacementPause: Duration { .seconds(60) }

    /// - Parameter backoff: What a group before this one has learnt of the same place.
    init(_ rules: Rules, backoff: DialBackoff = DialBackoff()) {
        self.rules = rules
        self.backoff = backoff
    }

    // MARK: What there is

    var connections: [Connection] { members.map(\.connection) }
    /// Nothing is left, and nothing is under way.
    var isUnused: Bool { members.isEmpty && waiting.isEmpty && failed.isEmpty && !isDialing }
    /// A connection takes streams, or is made for those who wait.
    var isUp: Bool { standing == .up }
    /// Streams that are open or being opened.
    var streamCount: Int { members.reduce(waiting.count) { $0 + $1.connection.streamCount } }
    /// One that is too old waits for its replacement.
    var isReplacing: Bool { members.contains { $0.age == .tooOld } }
    /// A connection takes streams.
    var hasUsable: Bool { members.contains(where: \.isUsable) }

    /// The peer ends one connection after the other before it has carried a stream.
    private var isFutile: Bool { backoff.failures >= rules.attempts }

    // MARK: Requests

    /// A request comes in; the caller starts it where there is a connection for it.
    mutating func admit(_ request: Request, now: UInt64) -> Admission {
        if waiting.isEmpty, let connection = connection(besides: nil, now: now) { return .start(connection) }
        guard waiting.count < rules.waitingRequests else { return .tooMany(waiting.count) }
        waiting.append(Waiting(request: request, since: now))
        return .waits
    }

    /// A request could not be served by `connection`, without harm: it waits again. Returns false where it was tried
    /// often enough.
    ///
    /// - Parameter isRefusal: The peer is there, and has said that it takes no more for now. That is no attempt: there
    ///   is room when a stream ends.
    mutating func requeue(_ item: Waiting, refusedBy connection: Connection, isRefusal: Bool, now: UInt64) -> Bool {
        let isInTime =
            isRefusal ? now &- item.since < rules.settlingTime.nanoseconds : item.attempts + 1 < rules.attempts
        guard !isClosed, isInTime else { return false }
        var again = item
        if !isRefusal { again.attempts += 1 }
        again.refuser = connection
        waiting.append(again)
        return true
    }

    private func connection(besides refuser: Connection?, now: UInt64) -> Connection? {
        var second: Connection?
        for member in members where member.connection.availableStreams > 0 {
            let isGood = !member.connection.isWindowStalled
            if isGood && member.connection !== refuser { return member.connection }
            if second == nil || isGood { second = member.connection }
        }
        // A better one may come.
        if second != nil, isDialing || isSettling || mayDial(now: now) { return nil }
        return second
    }

    private func mayDial(now: UInt64) -> Bool {
        let inUse = members.count { $0.isUsable && $0.age == .young }
        return !isClosed && now >= backoff.notBefore && inUse < rules.connections
    }

    /// A connection is about to say how many streams it takes.
    private var isSettling: Bool { members.contains { $0.isUsable && !$0.connection.isSettled } }

    // MARK: Events

    /// The owner wants a connection, whether or not anybody waits for one.
    mutating func seek() {
        if standing == .released { standing = .sought }
    }

    /// The way to the peer may be another now: no pause is kept any more.
    mutating func hurry() { backoff.hurry() }

    /// Returns whether the group comes up by it.
    mutating func dialed(_ connection: Connection, now: UInt64) -> Bool {
        defer { standing = .up }
        isDialing = false
        wantsReplacement = false
        loss = Loss()
        for index in members.indices where members[index].age == .tooOld { members[index].age = .replaced }
        members.append(Member(connection: connection, since: now, idleSince: now))
        return standing != .up
    }

    /// - Parameter hadBegun: The peer took the connection, and ended it before it was up.
    mutating func dialFailed(_ error: StreamError, hadBegun: Bool = false, now: UInt64) {
        isDialing = false
        if hasUsable {
            // Those who wait get a stream there, or when one ends.
            backoff.failed(now: now, upSince: oldest)
            if isReplacing { replacesAt = now &+ Self.replacementPause.nanoseconds }
            for index in 0..<waiting.count { waiting[index].refuser = nil }
        } else if error.code == .draining {
            // Taken with the peer's last breath: it may be restarting.
            loss = Loss(reason: error, wasUsed: streamCount > 0)
            cameToNothing(error, of: nil, now: now)
            if waiting.isEmpty && isFutile { lose(loss) }
        } else {
            if hadBegun { backoff.failed(now: now, upSince: nil) }
            lose(Loss(reason: error, wasUsed: streamCount > 0))
        }
    }

    /// The peer takes no more streams on it, or this side has retired it.
    mutating func drained(_ connection: Connection, now: UInt64) {
        guard let index = index(of: connection) else { return }
        let error = StreamError(.draining, "the peer takes no more streams")
        account(for: index, error, now: now)
        members[index].age = .young
        guard !hasUsable else { return }
        loss = Loss(reason: isFutile ? error : nil, wasUsed: connection.streamCount > 0)
        wantsReplacement = loss.wasUsed && rules.keeping != .nothing
    }

    /// - Parameter lostStreams: Those that were open when it ended.
    mutating func ended(_ connection: Connection, _ error: StreamError?, lostStreams: Int, now: UInt64) {
        guard let index = index(of: connection) else { return }
        let wasSpent = members[index].isSpent || members[index].isForsaken
        let reason = error ?? StreamError(.draining, "the peer closed the connection")
        account(for: index, reason, now: now)
        members.remove(at: index)
        guard !wasSpent, !hasUsable else { return }
        loss = Loss(reason: error ?? (isFutile ? reason : nil), wasUsed: lostStreams > 0 || !waiting.isEmpty)
        if error != nil, rules.keeping != .nothing { lose(loss) }
    }

    /// What the end of a connection says about its peer.
    private mutating func account(for index: Int, _ error: StreamError, now: UInt64) {
        let member = members[index]
        guard !member.isSpent else { return }
        members[index].isSpent = true
        backoff.lasted(from: member.since, to: now)
        let isYoung = now &- member.since < DialBackoff.trust.nanoseconds
        if isYoung && member.isBarren { cameToNothing(error, of: member.connection, now: now) }
    }

    /// A connection has ended before it carried a stream: an attempt of everybody who waits, but for those it has
    /// refused before.
    private mutating func cameToNothing(_ error: StreamError, of connection: Connection?, now: UInt64) {
        backoff.failed(now: now, upSince: oldest)
        let before = waiting
        waiting = RequestQueue()
        for index in 0..<before.count {
            var item = before[index]
            if connection == nil || item.refuser !== connection { item.attempts += 1 }
            if item.attempts >= rules.attempts { failed.append((item.request, error)) } else { waiting.append(item) }
        }
    }

    /// Since when the oldest connection has been up that takes streams.
    private var oldest: UInt64? { members.lazy.filter(\.isUsable).map(\.since).min() }

    /// Who waits waits no longer.
    private mutating func lose(_ loss: Loss) {
        let error = loss.reason ?? StreamError(.draining, "the peer closed the connection")
        while let item = waiting.popFirst() { failed.append((item.request, error)) }
        if standing != .released { standing = .lost }
        self.loss = loss
        wantsReplacement = false
    }

    /// Its age is reached. The next step replaces it, or lets it go where nobody uses it.
    mutating func tooOld(_ connection: Connection) {
        if let index = index(of: connection) { members[index].age = .tooOld }
    }

    /// A stream ended, the peer's limit has changed, or a peer in doubt has answered. Returns whether the group comes
    /// up by it.
    mutating func hasCapacity(_ connection: Connection, now: UInt64) -> Bool {
        guard let index = index(of: connection) else { return false }
        if connection.streamCount == 0 { members[index].idleSince = now }
        guard members[index].isForsaken, members[index].isUsable, !isClosed else { return false }
        members[index].isForsaken = false
        defer { standing = .up }
        return standing != .up
    }

    /// `connection` is in doubt.
    ///
    /// - Parameter isWanted: Somebody waits for an answer on it.
    mutating func doubted(_ connection: Connection, isWanted: Bool) {
        if isWanted { forsake() }
    }

    /// All connections that are left are in doubt, and somebody wants a stream: the owner may know another way.
    private mutating func forsake() {
        guard rules.keeping != .nothing, standing == .up, !isDialing, !hasUsable,
            let reason = members.lazy.compactMap(\.connection.doubt).first
        else { return }
        for index in members.indices where members[index].connection.doubt != nil { members[index].isForsaken = true }
        lose(Loss(reason: reason, wasUsed: true))
    }

    /// No more connections, and nobody waits. Returns whom to tell.
    mutating func close() -> [Request] {
        isClosed = true
        isDialing = false
        standing = .released
        var requests: [Request] = []
        while let item = waiting.popFirst() { requests.append(item.request) }
        return requests
    }

    /// Whether ``next(now:)`` may have something to do, or ``nextDeadline(now:)`` something new to say: not where all
    /// connections carry streams and nobody waits, as nearly always when one stream of many ends.
    var mayHaveStep: Bool {
        mutating get {
            // It changes nothing: the whole group would be copied to be asked.
            guard !isClosed, standing == .up, !wantsReplacement, !isDialing, waiting.isEmpty, failed.isEmpty else {
                return true
            }
            for index in members.indices {
                let connection = members[index].connection
                guard members[index].age == .young, !members[index].isSpent, !members[index].isForsaken,
                    !connection.isDraining, connection.doubt == nil, connection.isSettled, connection.streamCount > 0
                else { return true }
            }
            return false
        }
    }

    private func index(of connection: Connection) -> Int? {
        members.firstIndex { $0.connection === connection }
    }

    // MARK: Steps

    /// What is to be done now, one thing at a time; nil: nothing more until an event, or ``nextDeadline(now:)``.
    mutating func next(now: UInt64) -> Step? {
        if let (request, error) = failed.popFirst() { return .fail(request, error) }
        guard !isClosed else { return nil }
        if let index = members.firstIndex(where: { $0.age == .replaced }) {
            members[index].age = .young
            members[index].isSpent = true
            return .retire(members[index].connection)
        }
        if let step = serve(now: now) { return step }
        if !waiting.isEmpty {
            forsake()
            if let (request, error) = failed.popFirst() { return .fail(request, error) }
        }
        if needsDial(now: now) {
            isDialing = true
            return .dial
        }
        return letGo(now: now) ?? tellDown()
    }

    private mutating func serve(now: UInt64) -> Step? {
        guard !waiting.isEmpty, members.contains(where: { $0.connection.availableStreams > 0 }) else { return nil }
        var tried: Connection?
        for index in 0..<waiting.count {
            let refuser = waiting[index].refuser
            // Nothing else than for the one before it.
            if let tried, refuser === tried { continue }
            tried = refuser
            if let connection = connection(besides: refuser, now: now) {
                return .start(waiting.remove(at: index), on: connection)
            }
            // Nor is there one for those behind it.
            guard refuser != nil else { return nil }
        }
        return nil
    }

    private func needsDial(now: UInt64) -> Bool {
        guard !isDialing, mayDial(now: now) else { return false }
        if !waiting.isEmpty { return !isSettling }
        if standing == .sought || needsReplacement { return !hasUsable }
        return now >= replacesAt && members.contains { $0.age == .tooOld && $0.connection.streamCount > 0 }
    }

    private var needsReplacement: Bool { wantsReplacement && streamCount > 0 }

    private mutating func letGo(now: UInt64) -> Step? {
        if let index = members.firstIndex(where: { $0.isForsaken && !$0.isSpent && $0.connection.streamCount == 0 }) {
            members[index].isSpent = true
            return .close(members[index].connection, isIdle: false)
        }
        for index in members.indices where members[index].isUsable {
            let member = members[index]
            if !member.connection.isSettled, now >= member.since &+ rules.settlingTime.nanoseconds {
                return .giveUp(member.connection)
            }
            guard waiting.isEmpty, member.connection.streamCount == 0 else { continue }
            if member.age == .young {
                guard let deadline = idleDeadline(of: member), now >= deadline else { continue }
                if isKept(member) {
                    // It is still up: the owner may have another use for it.
                    members[index].idleSince = now
                    if streamCount == 0 { return .askOwner } else { continue }
                }
            }
            members[index].isSpent = true
            return .close(member.connection, isIdle: member.age == .young)
        }
        return nil
    }

    private func isKept(_ member: Member) -> Bool {
        rules.keeping != .nothing && !members.contains { $0.isUsable && $0.connection !== member.connection }
    }

    private func idleDeadline(of member: Member) -> UInt64? {
        if isKept(member), case .ready(let time) = rules.keeping {
            return time.map { member.idleSince &+ $0.nanoseconds }
        }
        return member.idleSince &+ rules.idleTimeout.nanoseconds
    }

    private mutating func tellDown() -> Step? {
        let isThere = members.contains { !$0.connection.isDraining }
        if standing == .up, waiting.isEmpty, !isDialing, !needsReplacement, !isThere { standing = .lost }
        guard standing == .lost else { return nil }
        standing = .released
        return .down(loss)
    }

    /// When ``next(now:)`` has something to do; nil when only an event can change anything.
    func nextDeadline(now: UInt64) -> UInt64? {
        guard !isClosed else { return nil }
        var deadline: UInt64?
        // What is due already waits for an event.
        func consider(_ time: UInt64) { if time > now { deadline = min(deadline ?? time, time) } }
        consider(backoff.notBefore)
        if isReplacing { consider(replacesAt) }
        if !waiting.isEmpty {
            for member in members { if let time = member.connection.takesMoreAt { consider(time) } }
        }
        for member in members where member.isUsable {
            if !member.connection.isSettled { consider(member.since &+ rules.settlingTime.nanoseconds) }
            if member.connection.streamCount == 0, let idle = idleDeadline(of: member) { consider(idle) }
        }
        return deadline
    }
}
