import H2Transport
import HTTP1
import Logging
import MeshPaths
import MeshPolicy
import Streams

/// One client of a gateway that speaks HTTP/2: each stream is a request, which goes where the listener's routes say.
/// Confined to its loop; the live connections of the loop keep it until it is closed.
///
/// ```
///   H2Connection ─→ received(_:) ─→ IngressExchange ─ relay ─ a server of HTTP/1.1, kept for the next request to it
///                                 ├→ IngressExchange ─ relay ─ a stream of the session with a server of HTTP/2
///                                 └→ a page of this node's own
/// ```
final class IngressHTTP2Connection: H2ConnectionDelegate, DrainingConnection {
    let gate: IngressGate
    /// Of the listener, when the client came: times and limits are those for as long as the connection lasts.
    let settings: NodeConfiguration.Ingress
    /// What carries the connection.
    let lower: ByteStream
    private var connection: H2Connection?
    private var exchanges: [ObjectIdentifier: IngressExchange] = [:]
    /// Servers of HTTP/1.1 that have answered what they were asked, those of late last.
    private var kept: [KeptServer] = []
    private var newcomer: Newcomers.Key?
    private var timer: LoopTimer?
    /// Since when nothing is asked.
    private var idleSince: UInt64
    private var hasAsked = false
    /// Requests in a row whose token does not hold.
    private var failures = 0
    private var isLeaving = false

    /// For servers of HTTP/1.1 without a request.
    private static let mostKept = 128

    var carrier: StreamCarrier { gate.carrier }
    var loop: EventLoop { lower.loop }

    /// - Parameters:
    ///   - lower: A socket, or TLS over one whose handshake is done.
    ///   - early: What was read from it already.
    static func serve(
        _ lower: ByteStream,
        early: [UInt8] = [],
        _ gate: IngressGate,
        _ settings: NodeConfiguration.Ingress
    ) {
        let served = IngressHTTP2Connection(lower, gate, settings)
        do throws(StreamError) {
            served.connection = try H2Connection(
                over: lower,
                role: .server,
                service: .exchanges,
                early: early,
                configuration: configuration(settings, gate.carrier),
                delegate: served
            )
        } catch {
            return lower.reset(error)
        }
        served.begin()
    }

    private init(_ lower: ByteStream, _ gate: IngressGate, _ settings: NodeConfiguration.Ingress) {
        self.lower = lower
        self.gate = gate
        self.settings = settings
        idleSince = lower.loop.now
    }

    private func begin() {
        gate.load.connections += 1
        carrier.live.connections[ObjectIdentifier(self)] = self
        newcomer = carrier.admit(from: gate.source) { [weak self] in self?.connection?.abort(.crowdedOut) }
        let timer = LoopTimer(on: loop) { [weak self] in self?.look() }
        self.timer = timer
        timer.schedule(after: lookInterval)
        if carrier.isDraining { drain() }
    }

    /// The world may ask for less than peers of the mesh: nobody has proved anything.
    private static func configuration(
        _ settings: NodeConfiguration.Ingress,
        _ carrier: StreamCarrier
    ) -> H2Configuration {
        var configuration = carrier.snapshot.configuration.connections.http2(for: .server)
        // That is between nodes, and this is the world.
        configuration.makesTraces = false
        configuration.acknowledges = 0
        configuration.windows.stream = 256 << 10
        configuration.windows.largestStream = 4 << 20
        configuration.windows.connection = 1 << 20
        configuration.windows.largestConnection = 8 << 20
        configuration.limits.concurrentStreams = 128
        configuration.limits.headerBytes = settings.limits.http.head
        configuration.limits.headerFields = settings.limits.http.fields
        configuration.limits.earlyResets = H2Configuration.Rate(burst: 500, perSecond: 100)
        configuration.limits.provokedResets = H2Configuration.Rate(burst: 100, perSecond: 10)
        configuration.limits.controlFrames = H2Configuration.Rate(burst: 500, perSecond: 50)
        configuration.limits.windowUpdates = H2Configuration.Rate(burst: 1000, perSecond: 100)
        configuration.limits.queuedBytes = 8 << 20
        configuration.limits.memory = 16 << 20
        configuration.limits.stallTimeout = settings.timeouts.idle
        return configuration
    }

    // MARK: H2ConnectionDelegate

    func connection(_ connection: H2Connection, received front: H2Stream) {
        if !hasAsked { welcome() }
        // It was told to go, and need not have read that.
        guard failures < IngressGate.failureLimit else {
            return front.refuse(StreamError(.denied, "too many requests without a token that holds"))
        }
        guard let rules = gate.rules else {
            front.refuse(StreamError(.denied, "listener '\(gate.listener.name)' is not there any more"))
            return drain()
        }
        if let refusal = IngressClient.refusal(of: gate.facts, carrier) { return connection.abort(refusal) }
        let head = front.requestHead
        do throws(HTTPError) {
            let limits = settings.limits.http
            let request = try HTTP2Heads.request(head, isEmpty: front.isEmptyAtEnd, limits: limits)
            let verdict = try gate.decide(request, by: rules, version: "2.0")
            if case .unauthorized = verdict { failures += 1 } else { failures = 0 }
            switch verdict {
            case .answer(let page): answer(front, page)
            case .unauthorized(let page):
                answer(front, page)
                if failures >= IngressGate.failureLimit { drain() }
            case .carry(let passage):
                if let limit = limits.body, case .length(let count) = request.framing, count > limit {
                    throw HTTPError(413, "the content is longer than \(limit) bytes")
                }
                let exchange: IngressExchange =
                    passage.route.h2
                    ? IngressHTTP2Exchange(front, passage, of: self, takesTrailers: HTTP2Heads.takesTrailers(request))
                    : IngressHTTP1Exchange(front, passage, of: self)
                gate.load.requests += 1
                exchanges[ObjectIdentifier(exchange)] = exchange
                exchange.start()
            }
        } catch {
            carrier.peerLog.log(.info, "bad request", of: "\(gate.source)", ["reason": "\(error)"])
            answer(front, .bad(error))
        }
    }

    func connection(_ connection: H2Connection, closed reason: StreamError?) {
        timer?.cancel()
        welcome()
        for server in kept { server.letGo() }
        kept = []
        if let reason, reason.code == .limit || reason.code == .protocolViolation {
            carrier.peerLog.log(.info, "a connection was cut", of: "\(gate.source)", ["reason": "\(reason)"])
        }
        if carrier.live.connections.removeValue(forKey: ObjectIdentifier(self)) != nil { gate.load.connections -= 1 }
        if isLeaving { carrier.live.hasLeft() }
    }

    private func welcome() {
        hasAsked = true
        if let newcomer { carrier.newcomers.remove(newcomer) }
        newcomer = nil
    }

    // MARK: DrainingConnection

    func drain() {
        guard let connection, !connection.isClosed else { return }
        if !isLeaving {
            isLeaving = true
            carrier.live.isLeaving()
        }
        connection.drain(deadline: nil)
    }

    func cut(_ reason: StreamError) { connection?.abort(reason) }

    func rulesChanged() {
        if let refusal = IngressClient.refusal(of: gate.facts, carrier) { connection?.abort(refusal) }
        // A client that comes again gets what holds now.
        guard let now = gate.rules?.settings else { return drain() }
        if now.limits != settings.limits || now.timeouts != settings.timeouts || now.clients != settings.clients {
            drain()
        }
    }

    // MARK: Answers

    /// A page in the place of a server's answer.
    func answer(_ front: H2Stream, _ page: HTTPProxyPage) {
        let page = gate.finished(page)
        let body = front.requestHead.method == "HEAD" ? [] : Array(page.text.utf8)
        _ = front.respond(page.status, HTTP2Heads.fields(of: page), ends: body.isEmpty)
        if !body.isEmpty {
            _ = body.withUnsafeBytes { front.write($0) }
            front.finish()
        }
        front.close()
    }

    func ended(_ exchange: IngressExchange) {
        guard exchanges.removeValue(forKey: ObjectIdentifier(exchange)) != nil else { return }
        gate.load.requests -= 1
        if exchanges.isEmpty { idleSince = loop.now }
    }

    // MARK: Servers

    /// One that is free, and may have what `plan` allows.
    func takeServer(for plan: StreamPlan) -> KeptServer? {
        let destination = plan.request.destination
        guard
            let index = kept.lastIndex(where: {
                $0.plan.request.destination == destination && carrier.mayGoOn(plan, on: $0.opened, of: $0.plan)
            })
        else { return nil }
        let server = kept.remove(at: index)
        server.take()
        return server
    }

    func keep(_ opened: StreamOpener.Opened, of plan: StreamPlan) {
        guard connection?.isClosed == false, !carrier.isDraining else {
            return opened.stream.close()
        }
        if kept.count >= Self.mostKept { kept.removeFirst().letGo() }
        let server = KeptServer(opened, plan) { [weak self] server in self?.kept.removeAll { $0 === server } }
        kept.append(server)
        server.watch()
    }

    // MARK: Time

    /// Now and then is enough, and costs a request nothing.
    private var lookInterval: Duration {
        let times = settings.timeouts
        return min(max(min(times.head, times.idle, times.upstream ?? times.idle) / 4, .milliseconds(20)), .seconds(10))
    }

    private func look() {
        guard let connection, !connection.isClosed else { return }
        let now = loop.now
        if exchanges.isEmpty {
            let limit = hasAsked ? settings.timeouts.idle : settings.timeouts.head
            if now &- idleSince >= limit.nanoseconds, connection.streamCount == 0 { return connection.close() }
            let limitKept = settings.timeouts.idle.nanoseconds
            while let first = kept.first, now &- first.since >= limitKept { kept.removeFirst().letGo() }
        } else {
            for exchange in Array(exchanges.values) { exchange.look(at: now) }
        }
        timer?.schedule(after: lookInterval)
    }
}

/// A server of HTTP/1.1 between two requests.
final class KeptServer: StreamObserver {
    let opened: StreamOpener.Opened
    let plan: StreamPlan
    let since: UInt64
    private let lost: (KeptServer) -> Void

    /// - Parameter lost: It has ended, or says what nobody has asked for.
    init(_ opened: StreamOpener.Opened, _ plan: StreamPlan, lost: @escaping (KeptServer) -> Void) {
        self.opened = opened
        self.plan = plan
        self.lost = lost
        since = opened.stream.loop.now
        opened.stream.observer = self
    }

    func take() { opened.stream.observer = nil }

    func letGo() {
        opened.stream.observer = nil
        opened.stream.finish()
        opened.stream.close()
    }

    /// Whether it says something is not told before somebody has looked.
    func watch() {
        let isQuiet = withUnsafeTemporaryAllocation(byteCount: 1, alignment: 1) {
            opened.stream.read(into: $0) == .wouldBlock
        }
        guard !isQuiet else { return }
        opened.stream.observer = nil
        opened.stream.reset(StreamError(.closed, "the server has nothing to say"))
        lost(self)
    }

    func streamReadable(_ stream: ByteStream) { watch() }
    func streamWritable(_ stream: ByteStream) {}
    func streamFailed(_ stream: ByteStream) {
        stream.observer = nil
        stream.reset(stream.failure ?? .closed(stream))
        lost(self)
    }
}
