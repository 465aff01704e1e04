import H2Transport
import MeshIdentity
import MeshPolicy
import Platform
import Streams

/// `h2` and `h2-over-ssh`: mutual TLS and HTTP/2 over whatever stream leads to the peer, be it a TCP connection or an
/// SSH channel. Confined to its event loop.
///
/// Which connection takes a stream, and when another one is made, is for its ``H2Transport/ConnectionGroup`` to say;
/// this asks connections that owe bytes whether they still live, and tells what becomes of the path. It counts as up
/// when a PING came back: only then has the peer accepted this side's certificate (TLS 1.3 tells a client by its first
/// read) and shown that it speaks HTTP/2.
final class TunnelSource: PathSource {
    /// Connects to where the peer's HBONE server is. Calls back once, on the loop.
    typealias LowerDialer = (@escaping (Result<ByteStream, StreamError>) -> Void) -> Void

    var events = PathEvents()
    private(set) var peer: SPIFFEID?
    /// Whoever ended the last attempt had proved to be the peer by then: it is the peer that refuses this side, and not
    /// somebody else that answers in its place.
    private(set) var hadProved = false
    /// Where the last connection leads, where that is known.
    private(set) var remoteAddress: SocketAddress?

    private let dialLower: LowerDialer
    /// The same in small packets, where that is for this side to choose.
    private let dialAgain: LowerDialer?
    /// Goes with each request: tells the peer what carries it.
    var mark: HeaderFields { didSet { lastHead = nil } }
    /// Told of a connection that takes no more streams.
    var onDraining: ((H2Connection) -> Void)?
    /// Told when streams that are on a connection which takes no more of them can go on over another one that does. Not
    /// before: who asks for a stream that goes on acknowledges little until there is an answer.
    var onSuccession: (() -> Void)?
    /// Told of a connection that does not answer: streams that can go on elsewhere need not wait for it.
    var onDoubt: ((H2Connection, StreamError) -> Void)?
    /// Told of a connection that has not answered yet, and is not in doubt: another way may be wanted soon.
    var onSuspicion: (() -> Void)?
    /// What the other way takes that ``onSuspicion`` asks for.
    var preparation: (_ roundTripTime: Duration?) -> Duration = { _ in .zero }
    /// Whether the peer has accepted this side on another path, so that the first PING need not be waited for.
    var knowsPeer: () -> Bool = { false }
    private let expectation: PeerExpectation
    /// The server is a proxy that is no member of a mesh, and must have this name; nil: it is the peer itself.
    private let proxy: String?
    let loop: EventLoop
    private var context: TLSContext
    private var settings: ConnectionSettings
    /// Made when it is wanted first, and after ``reset()``.
    private var group: ConnectionGroupDriver?
    /// Take no more streams, and have some that go on.
    private var leaving: [ConnectionGroupDriver] = []
    /// Counts connections that were lost: tells whether a request failed because its connection did.
    private var losses = 0
    /// Of the last stream, with nothing but ``mark``.
    private var lastHead: (authority: Authority, plain: RequestHead)?
    private var monitor: LoopTimer?
    private var suspicion: LoopTimer?
    /// Outlives the group: a peer that ends what it takes is not to be dialled for each client that comes after the
    /// path was let go.
    private var backoff = DialBackoff()
    /// Who waits until there is a certificate in the place of one that has ended.
    private var held: [H2Endpoint.Completion<ByteStream>] = []
    private var holdTimer: LoopTimer?

    /// How long a renewal may take that is under way when a machine wakes up. Then the old certificate is shown: the
    /// peer says that it has ended.
    private static let longestHold: Duration = .seconds(5)
    /// How long a connection that owes bytes may be silent before it is asked.
    private static let silence: Duration = .milliseconds(200)
    private static let shortestLook: Duration = .milliseconds(20)
    /// After a connection has fallen silent, those that follow it send small packets for so long: it may be the large
    /// ones that get lost, while handshakes and PINGs pass (RFC 2923 §2.1).
    private static let caution: Duration = .seconds(600)
    /// Until when, on the loop's clock.
    private var isCautiousUntil: UInt64 = 0

    init(
        over dialLower: @escaping LowerDialer,
        again dialAgain: LowerDialer? = nil,
        as transport: Transport,
        context: TLSContext,
        expecting expectation: PeerExpectation,
        proxy: String? = nil,
        settings: ConnectionSettings,
        on loop: EventLoop
    ) {
        self.proxy = proxy
        self.dialLower = dialLower
        self.dialAgain = dialAgain
        mark = TransportMark.headers(for: transport)
        self.context = context
        self.expectation = expectation
        self.settings = settings
        self.loop = loop
        monitor = LoopTimer(on: loop) { [weak self] in self?.checkSilence() }
        suspicion = LoopTimer(on: loop) { [weak self] in self?.suspect() }
        holdTimer = LoopTimer(on: loop) { [weak self] in self?.dialHeld() }
    }

    func has(_ connection: H2Connection) -> Bool {
        groups.contains { $0.connections.contains { $0 === connection } }
    }

    /// All connections are of one of these.
    private var groups: [ConnectionGroupDriver] { (group.map { [$0] } ?? []) + leaving }

    var streamCount: Int { leaving.reduce(group?.streamCount ?? 0) { $0 + $1.streamCount } }
    var roundTripTime: Duration? { group?.connections.compactMap(\.shortestRoundTripTime).min() }

    // MARK: The path

    func establish() {
        let group = group ?? makeGroup()
        self.group = group
        // Who asks for what is there has missed that it is.
        if group.isUp, group.connections.contains(where: { !$0.isDraining && $0.doubt == nil }) {
            return loop.later { [weak self, weak group] in
                // It may have been lost or let go meanwhile.
                guard let self, let group, self.group === group, group.isUp else { return }
                events.up()
            }
        }
        group.establish()
    }

    private func makeGroup() -> ConnectionGroupDriver {
        let group = ConnectionGroupDriver(to: endpoint, settings: settings.group, backoff: backoff, on: loop)
        group.trust = context.trust
        group.knowsPeer = { [weak self] in self?.knowsPeer() ?? false }
        group.onEvent = { [weak self] in self?.handle($0) }
        return group
    }

    private var endpoint: H2Endpoint {
        typealias Dial = (EventLoop, @escaping H2Endpoint.Completion<ByteStream>) -> Void
        let current = { [weak self, context] in self?.context ?? context }
        let dial: Dial = { [weak self, dialLower] in
            if let self { self.dial($1) } else { dialLower($1) }
        }
        let again: Dial? = dialAgain.map { dial in
            { [weak self] _, completion in
                // It is late: the path may have been let go.
                guard self?.group != nil else {
                    return completion(.failure(StreamError(.closed, "the path was closed")))
                }
                dial(completion)
            }
        }
        let overtaken = { [weak self] in self?.beCautious() ?? () }
        if let proxy {
            return .proxy(proxy, context: context, current: current, dial: dial, again: again, overtaken: overtaken)
        }
        return .over(
            "path",
            context: context,
            expecting: expectation,
            current: current,
            dial: dial,
            again: again,
            overtaken: overtaken
        )
    }

    /// A machine that has slept past the end of its certificate renews it once it is awake; who dialled before that
    /// would show the old one, and be refused for it.
    private func dial(_ completion: @escaping H2Endpoint.Completion<ByteStream>) {
        guard let end = context.notAfter, WallClock.system.seconds > end else { return dialNow(completion) }
        held.append(completion)
        if holdTimer?.isScheduled == false { holdTimer?.schedule(after: Self.longestHold) }
    }

    private func dialNow(_ completion: @escaping H2Endpoint.Completion<ByteStream>) {
        let isCautious = loop.now < isCautiousUntil
        let dial = isCautious ? dialAgain ?? dialLower : dialLower
        dial(completion)
    }

    private func dialHeld() {
        holdTimer?.cancel()
        let waiting = held
        held = []
        for completion in waiting { dialNow(completion) }
    }

    private func handle(_ event: ConnectionGroupDriver.Event) {
        switch event {
        case .connected(let connection):
            peer = connection.peer
            remoteAddress = connection.remoteAddress
            tellSuccession()
        case .disconnected(_, let reason):
            if reason != nil { losses += 1 }
            if reason?.code == .timedOut { beCautious() }
        case .up: events.up()
        case .down(let reason?, let wasUsed): events.down(reason, wasUsed)
        case .down(nil, _): events.rest()
        case .idle: events.idle()
        // Its handshake passed, and its first PING did not: the answer to the handshake may have been too large.
        case .failed(let error, let hadBegun):
            hadProved = hadBegun
            if hadBegun, error.code == .timedOut { beCautious() }
        case .draining(let connection):
            onDraining?(connection)
            tellSuccession()
        case .unused: break
        }
    }

    private func tellSuccession() {
        guard let group, group.connections.contains(where: { !$0.isDraining && $0.doubt == nil }) else { return }
        onSuccession?()
    }

    private func beCautious() { isCautiousUntil = loop.now &+ Self.caution.nanoseconds }

    func use(_ context: TLSContext, _ settings: ConnectionSettings) {
        self.context = context
        self.settings = settings
        dialHeld()
        // What the peer proved stays proved, unless it was revoked.
        for group in groups { group.trust = context.trust }
        group?.use(endpoint, settings.group)
    }

    /// What runs inside of a stream of `connection` takes no new streams.
    func retire(over connection: H2Connection) {
        for inner in groups.flatMap(\.connections) where inner.carrier === connection { inner.retire() }
    }

    func release() { reset() }

    func reset() { reset(besides: []) }

    private func reset(besides kept: [ConnectionGroupDriver]) {
        monitor?.cancel()
        suspicion?.cancel()
        holdTimer?.cancel()
        // Before anybody is told: who is told may come back to this.
        let former = group
        group = nil
        if let former { backoff = former.backoff }
        former?.onEvent = { _ in }
        former?.close(StreamError(.closed, "the path was closed"))
        let left = leaving
        leaving = kept
        for group in left where !kept.contains(where: { $0 === group }) { group.close() }
        let waiting = held
        held = []
        for completion in waiting { completion(.failure(StreamError(.closed, "the path was closed"))) }
    }

    func distrust() -> Bool {
        let now = WallClock.system.seconds
        func isExcused(_ connection: H2Connection) -> Bool { (connection.certificatesExpireAt ?? .max) <= now }
        if let group, group.connections.contains(where: { $0.streamCount > 0 && isExcused($0) }) {
            // What is there otherwise has no such excuse.
            for connection in group.connections where !isExcused(connection) { connection.close() }
            leaving.append(group)
            self.group = nil
            backoff = group.backoff
            group.onEvent = { [weak self, weak group] event in
                if case .unused = event { self?.leaving.removeAll { $0 === group } }
            }
            group.drain(deadline: settings.drainTimeout)
        }
        reset(besides: leaving)
        return leaving.contains { $0.streamCount > 0 }
    }

    // MARK: Streams

    func open(
        to authority: Authority,
        headers: HeaderFields,
        completion: @escaping (Result<ByteStream, PathFailure>) -> Void
    ) {
        let before = losses
        open(head(to: authority, headers)) { [self] result in
            switch result {
            case .success(let stream): completion(.success(stream))
            case .failure(let failure): failed(failure, since: before) { error, _ in completion(.failure(error)) }
            }
        }
    }

    func isElsewhere(_ place: ResumptionPlace, from authority: Authority) -> Bool {
        let usable = group?.connections.filter { !$0.isDraining && $0.doubt == nil } ?? []
        return !usable.isEmpty && usable.allSatisfy { place.isElsewhere(than: $0.peerProcess) }
    }

    /// One serves all streams that ask for the same: most to a peer go to one or two places behind it.
    private func head(to authority: Authority, _ headers: HeaderFields) -> RequestHead {
        let plain: RequestHead
        if let lastHead, lastHead.authority == authority {
            plain = lastHead.plain
        } else {
            plain = RequestHead("CONNECT", authority: authority.description, fields: mark)
            lastHead = (authority, plain)
        }
        guard !headers.isEmpty else { return plain }
        var fields = headers
        for field in mark { fields.append(field.name, field.value) }
        return RequestHead("CONNECT", authority: plain.authority, fields: fields)
    }

    /// The same for a whole request.
    ///
    /// - Parameter completion: Called once, on the loop; beside a failure, with what the server has answered.
    func open(
        _ request: ConnectRequest,
        completion: @escaping (Result<ByteStream, PathFailure>, ConnectResponse?) -> Void
    ) {
        let before = losses
        open(RequestHead(request)) { [self] result in
            switch result {
            case .success(let stream): completion(.success(stream), nil)
            case .failure(let failure): failed(failure, since: before) { completion(.failure($0), $1) }
            }
        }
    }

    private func open(_ head: RequestHead, _ completion: @escaping ConnectionGroupDriver.Completion) {
        guard let group, group.isUp else {
            let failure = ConnectFailure(StreamError(.closed, "the path is down"), isRetryable: true)
            return loop.later { completion(.failure(failure)) }
        }
        group.open(head, completion: completion)
        if monitor?.isScheduled == false { monitor?.schedule(after: Self.silence) }
    }

    /// Whether the connection died under the request is known once it has reported its end. Without an answer none of
    /// the stream's bytes has been sent, so that another path may ask again.
    ///
    /// - Parameter before: How many connections were lost when it was sent.
    private func failed(
        _ failure: ConnectFailure,
        since before: Int,
        _ completion: @escaping (PathFailure, ConnectResponse?) -> Void
    ) {
        loop.later { [self] in
            let mayAskAgain = failure.isRetryable || failure.response == nil && losses != before
            completion(mayAskAgain ? .pathLost(failure.error) : .refused(failure.error), failure.response)
        }
    }

    /// Runs while streams are open, or wait for a connection that is being made. Silence alone is no reason to ask: an
    /// idle stream owes nothing, and a device's battery pays for each PING. Silence after something was sent is.
    ///
    /// A connection that does not answer is in doubt: new streams go elsewhere, and resumable ones, which lose nothing
    /// by it. All others stay: a device that pauses for two seconds, or a round trip that grows, must not cost bytes
    /// that TCP would have delivered. That a connection is dead, TCP says, or the keep-alive.
    private func checkSilence() {
        guard let group else { return }
        var next = Self.silence.nanoseconds
        for connection in group.connections where !connection.isDraining && connection.streamCount > 0 {
            guard connection.doubt == nil, !connection.isBeingProbed, connection.lastSent > connection.lastReceived
            else { continue }
            let silent = loop.now &- connection.lastReceived
            if silent >= Self.silence.nanoseconds {
                ask(connection, of: group)
            } else {
                next = min(next, max(Self.silence.nanoseconds &- silent, Self.shortestLook.nanoseconds))
            }
        }
        if group.streamCount > 0 { monitor?.schedule(after: .nanoseconds(Int64(next))) }
    }

    private func suspect() {
        guard let group, group.isUp,
            group.connections.contains(where: { $0.isBeingProbed && $0.doubt == nil && $0.streamCount > 0 })
        else { return }
        onSuspicion?()
    }

    /// Asks whether the connection still lives; one that does not answer in time is in doubt.
    ///
    /// - Parameter afterChange: The network has changed, and explains a silence: it is not the large packets that are
    ///   lost, and streams that can go on elsewhere need not wait.
    private func ask(_ connection: H2Connection, of group: ConnectionGroupDriver, afterChange: Bool = false) {
        let timeout = AnswerTime.allowed(connection)
        let asked = loop.now
        if onSuspicion != nil {
            let roundTrip = connection.roundTripTime
            let time = AnswerTime.unsuspicious(roundTrip, allowed: timeout, preparation: preparation(roundTrip))
            suspicion?.schedule(after: time)
        }
        connection.probe(timeout: timeout) { [weak self, weak group] isAlive in
            guard !isAlive else { return }
            if !afterChange { self?.beCautious() }
            let reason = StreamError(.timedOut, "no answer to PING within \(timeout)")
            group?.doubt(connection, reason, since: asked, isWanted: afterChange && connection.streamCount > 0)
            self?.onDoubt?(connection, reason)
        }
    }

    /// What is sent from an address that is gone reaches nobody: such a connection need not be asked. It is used again
    /// when something comes on it after all, as with an address that came back.
    func networkChanged(_ change: NetworkChange) {
        guard let group else { return }
        group.hurry()
        for connection in group.connections where !connection.isDraining && connection.doubt == nil {
            if let own = connection.localAddress?.address, change.gone.contains(own) {
                let reason = StreamError(.timedOut, "this machine has the address \(own) no more")
                group.doubt(connection, reason, since: loop.now, isWanted: connection.streamCount > 0)
                onDoubt?(connection, reason)
            } else if !connection.isBeingProbed {
                ask(connection, of: group, afterChange: true)
            }
        }
    }
}
