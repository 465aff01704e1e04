import H2Transport
import MeshPaths
import MeshPolicy
import Platform
import Streams

/// Sessions with workloads that speak HTTP/2 without TLS: one for all requests to a destination that take the same way,
/// and another one only where that has no room. Confined to its loop.
final class HTTP2Servers {
    typealias Completion = (Result<HTTP2Server, StreamError>) -> Void

    /// A session that is being opened, and who waits for it.
    private final class Dial {
        let plan: StreamPlan
        var waiting: [Waiter] = []
        var cancel: StreamOpener.Cancellation?

        init(_ plan: StreamPlan) { self.plan = plan }
    }

    /// A request without a session. It may wait for one after the other: whoever gives it up gives it up wherever it
    /// is.
    private final class Waiter {
        let plan: StreamPlan
        let completion: Completion
        weak var dial: Dial?
        var isOver = false

        init(_ plan: StreamPlan, _ completion: @escaping Completion) {
            self.plan = plan
            self.completion = completion
        }

        func complete(_ result: Result<HTTP2Server, StreamError>) {
            guard !isOver else { return }
            isOver = true
            completion(result)
        }
    }

    private var servers: [Authority: [HTTP2Server]] = [:]
    /// Those that take nothing new, for as long as they have requests.
    private var leaving: [ObjectIdentifier: HTTP2Server] = [:]
    private var dials: [Authority: [Dial]] = [:]

    /// - Parameters:
    ///   - plan: What is asked for, and the way to it.
    ///   - completion: Called once, unless the returned function is called before; from inside this call where there is
    ///     a session.
    func take(
        _ plan: StreamPlan,
        _ carrier: StreamCarrier,
        completion: @escaping Completion
    )
        -> StreamOpener.Cancellation
    {
        let waiter = Waiter(plan, completion)
        take(for: waiter, carrier)
        return { [weak self] in self?.giveUp(waiter) }
    }

    private func take(for waiter: Waiter, _ carrier: StreamCarrier) {
        let plan = waiter.plan
        let destination = plan.request.destination
        if case .refused(let refusal) = plan.outcome { return waiter.complete(.failure(refusal.error)) }
        let free = servers[destination]?.first { server in
            server.isFree && Self.mayShare(plan, with: server.plan)
                && carrier.mayGoOn(plan, on: server.opened, of: server.plan)
        }
        if let free { return waiter.complete(.success(free)) }
        let before = dials[destination]?.first { dial in
            dial.waiting.count < HTTP2Server.assumedStreams && dial.plan.outcome == plan.outcome
                && Self.mayShare(plan, with: dial.plan)
        }
        let dial = before ?? Dial(plan)
        waiter.dial = dial
        dial.waiting.append(waiter)
        guard before == nil else { return }
        dials[destination, default: []].append(dial)
        open(dial, carrier)
    }

    private func giveUp(_ waiter: Waiter) {
        waiter.isOver = true
        guard let dial = waiter.dial else { return }
        waiter.dial = nil
        dial.waiting.removeAll { $0 === waiter }
        guard dial.waiting.isEmpty else { return }
        dial.cancel?()
        forget(dial)
    }

    /// A workload that is told who asks is told it once for a session.
    private static func mayShare(_ plan: StreamPlan, with other: StreamPlan) -> Bool {
        guard plan.route.announces != nil else { return true }
        return plan.request.source == other.request.source && plan.request.sourceIP == other.request.sourceIP
    }

    private func open(_ dial: Dial, _ carrier: StreamCarrier) {
        var isDone = false
        let cancel = carrier.opener.open(dial.plan) { [self] result in
            isDone = true
            dial.cancel = nil
            forget(dial)
            let waiting = dial.waiting
            dial.waiting = []
            for waiter in waiting { waiter.dial = nil }
            do throws(StreamError) {
                let opened = try result.get()
                guard !waiting.isEmpty else { return opened.abandon() }
                let server = try HTTP2Server(opened, dial.plan, of: self, carrier)
                servers[dial.plan.request.destination, default: []].append(server)
                // What becomes of one may end others.
                for waiter in waiting where !waiter.isOver {
                    if server.isFree, carrier.mayGoOn(waiter.plan, on: opened, of: dial.plan) {
                        waiter.complete(.success(server))
                    } else {
                        take(for: waiter, carrier)
                    }
                }
            } catch {
                for waiter in waiting { waiter.complete(.failure(error)) }
            }
        }
        if !isDone { dial.cancel = cancel }
    }

    private func forget(_ dial: Dial) {
        let destination = dial.plan.request.destination
        dials[destination]?.removeAll { $0 === dial }
        if dials[destination]?.isEmpty == true { dials[destination] = nil }
    }

    /// It takes nothing new.
    fileprivate func isDraining(_ server: HTTP2Server) {
        take(away: server)
        leaving[ObjectIdentifier(server)] = server
    }

    /// It has ended.
    fileprivate func forget(_ server: HTTP2Server) {
        take(away: server)
        leaving[ObjectIdentifier(server)] = nil
    }

    private func take(away server: HTTP2Server) {
        let destination = server.plan.request.destination
        servers[destination]?.removeAll { $0 === server }
        if servers[destination]?.isEmpty == true { servers[destination] = nil }
    }

    /// Nothing is asked any more.
    func close() {
        for server in servers.values.flatMap({ $0 }) + Array(leaving.values) { server.connection?.close() }
    }
}

/// A session with a workload that speaks HTTP/2.
final class HTTP2Server: H2ConnectionDelegate {
    let opened: StreamOpener.Opened
    /// By which it was opened.
    let plan: StreamPlan
    private(set) var connection: H2Connection?
    private let servers: HTTP2Servers
    private var timer: LoopTimer?
    private var wasIdle = false

    /// What RFC 9113 §6.5.2 recommends that a peer allows, whose SETTINGS are still to come.
    static let assumedStreams = 100
    /// A session without a request is closed after this time, or up to twice of it.
    private static let idleTime: Duration = .seconds(60)
    /// Whoever asks has times of its own.
    private static let never: Duration = .seconds(86400 * 365)

    init(
        _ opened: StreamOpener.Opened,
        _ plan: StreamPlan,
        of servers: HTTP2Servers,
        _ carrier: StreamCarrier
    ) throws(StreamError) {
        self.opened = opened
        self.plan = plan
        self.servers = servers
        var configuration = carrier.snapshot.configuration.connections.http2(for: .client)
        configuration.requestTimeout = Self.never
        // Servers of gRPC cut off clients whose PINGs come more often than every five minutes. What carries the session
        // finds out by itself whether the other side is there.
        configuration.keepAlive.interval = Self.never
        configuration.assumedPeerStreams = Self.assumedStreams
        configuration.limits.headerBytes = 64 << 10
        configuration.limits.headerFields = 256
        configuration.metrics = .none
        do throws(StreamError) {
            connection = try H2Connection(
                over: opened.stream,
                role: .client,
                configuration: configuration,
                delegate: self
            )
        } catch {
            opened.stream.reset(error)
            throw error
        }
        let timer = LoopTimer(on: opened.stream.loop) { [weak self] in self?.look() }
        self.timer = timer
        timer.schedule(after: Self.idleTime)
    }

    var isFree: Bool { (connection?.availableStreams ?? 0) > 0 }

    private func look() {
        guard let connection, !connection.isClosed else { return }
        let isIdle = connection.streamCount == 0
        if isIdle, wasIdle { return connection.close() }
        wasIdle = isIdle
        timer?.schedule(after: Self.idleTime)
    }

    func connectionIsDraining(_ connection: H2Connection) { servers.isDraining(self) }

    func connection(_ connection: H2Connection, closed reason: StreamError?) {
        timer?.cancel()
        servers.forget(self)
    }
}
