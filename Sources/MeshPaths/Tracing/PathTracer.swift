package import H2Transport
package import Logging
import MeshIdentity
package import MeshPolicy
package import Platform
import SSHSignal
package import Streams

/// Goes each way to a peer once, step by step, and says what each step took and which one fails: one way after the
/// other, so that none is slower for another. Nothing is kept connected, and nothing is sent to the target.
package struct PathTracer: Sendable {
    let access: PeerAccess
    let context: TLSContext?
    /// Where the stream of each path is to end; nil: none is asked for.
    let target: Authority?
    let settings: ConnectionSettings
    /// For each step; those of an SSH login have their own.
    let timeout: Duration
    /// Why a path may not carry a stream to a destination (policy); nil if it may.
    let permits: @Sendable (Authority, PathID) -> StreamError?
    let loop: EventLoop
    let logger: Logger

    /// How long the target may take for its first byte: most services wait for the client.
    static let patience = Duration.seconds(1)

    /// - Parameters:
    ///   - access: The ways to the peer, and whom it must be.
    ///   - context: A client context with the credential to show; nil where `access` names plain `ssh` only.
    ///   - target: Where the stream of each path is to end; nil: none is asked for.
    ///   - settings: Of the connections.
    ///   - timeout: For each step that is not one of an SSH login.
    ///   - loop: Where all of it lives.
    ///   - logger: Told what is told of connections anyway.
    ///   - permits: Says why a path may not carry a stream to a destination (policy), or nil.
    package init(
        _ access: PeerAccess,
        context: TLSContext?,
        target: Authority?,
        settings: ConnectionSettings = .defaults,
        timeout: Duration,
        on loop: EventLoop,
        logger: Logger,
        permits: @escaping @Sendable (Authority, PathID) -> StreamError? = { _, _ in nil }
    ) {
        self.access = access
        self.context = context
        self.target = target
        var settings = settings
        // A trace is over before anything could be resumed.
        settings.resumable = false
        self.settings = settings
        self.timeout = timeout
        self.loop = loop
        self.logger = logger
        self.permits = permits
    }

    /// - Parameters:
    ///   - began: Told of each path before it is gone.
    ///   - ended: Told of each path afterwards.
    package func run(began: (PathID) -> Void, ended: (PathTrace) -> Void) async {
        var login: TracedLogin?
        for way in ways {
            for (path, reach) in Self.single(way) {
                began(path)
                var trace: PathTrace
                switch reach {
                case .tunnel(let addresses), .servers(let addresses): trace = await native(path, addresses.first)
                case .gateways(let gateways, let single): trace = await through(gateways, to: single, path)
                case .gateway(let gateway, let home):
                    trace = await through([gateway], to: home, path)
                    trace.weight = access.ways.contains { $0.id == path } ? .identity : .none
                case .proxy: trace = await whole(PathWay(path, reach))
                case .held: trace = Self.held(path)
                case .tunnelOverSSH(let port): trace = await overSSH(path, port: port, &login)
                case .ssh: trace = await plainSSH(path, &login)
                }
                ended(trace)
            }
        }
        await login?.client?.close()
    }

    /// Those of the peer, and through the gateways that it has named before: of these, the ones that would be dialled.
    private var ways: [PathWay] {
        guard let terms = access.gatewayTerms, !access.gateways.isEmpty else { return access.ways }
        var recorded: [Authority] = []
        for case .tunnel(let addresses) in access.ways.map(\.reach) { recorded += addresses }
        let known = access.ways.map(\.id)
        var all = access
        all.add(terms.ways(recorded: access.gateways, of: recorded).filter { !known.contains($0.id) })
        return all.ways
    }

    /// Each address is a way of its own.
    private static func single(_ way: PathWay) -> [(PathID, PathWay.Reach)] {
        switch way.reach {
        case .tunnel(let addresses) where !addresses.isEmpty, .servers(let addresses) where !addresses.isEmpty:
            addresses.map { (PathID(way.id.transport, $0.description), PathWay.Reach.tunnel(to: [$0])) }
        case .gateways(let gateways, _):
            [(PathID(way.id.transport, gateways.map(\.address.description).joined(separator: " → ")), way.reach)]
        case .tunnel, .servers, .proxy, .gateway, .held, .tunnelOverSSH, .ssh: [(way.id, way.reach)]
        }
    }

    /// What every path ends with.
    private static let opening = [TraceStep(.connect), TraceStep(.firstByte)]

    private static func tunnel(at place: String? = nil) -> [TraceStep] {
        [TraceStep(.handshake, at: place), TraceStep(.settings, at: place)]
    }

    // MARK: The ways

    private func native(_ path: PathID, _ address: Authority?) async -> PathTrace {
        var trace = PathTrace(path, [TraceStep(.names), TraceStep(.connection)] + Self.tunnel() + Self.opening)
        let line = TraceLine(on: loop, timeout: timeout)
        if await dial(address, line, &trace), await tunnel(line, expecting: access.expectation, &trace) {
            await open(line, path, TransportMark.headers(for: path.transport), &trace)
        }
        await line.end()
        return trace
    }

    /// A tunnel to each gateway inside of a stream of the one before, and the last to the workload.
    private func through(_ gateways: [Gateway], to single: Authority?, _ path: PathID) async -> PathTrace {
        let places = gateways.map { "gateway \($0.address)" }
        var steps = [TraceStep(.names, at: places[0]), TraceStep(.connection, at: places[0])]
        for (index, place) in places.enumerated() {
            let next = index + 1 < gateways.count ? gateways[index + 1].address : single ?? target
            steps += Self.tunnel(at: place) + [TraceStep(.connect, at: place, between: next)]
        }
        var trace = PathTrace(path, steps + Self.tunnel() + Self.opening)
        let line = TraceLine(on: loop, timeout: timeout)
        let reached = await reach(gateways, single ?? target, line, &trace)
        if reached, await tunnel(line, expecting: access.expectation, &trace) {
            await open(line, path, access.marks.inner, &trace)
        }
        await line.end()
        return trace
    }

    private func reach(
        _ gateways: [Gateway],
        _ workload: Authority?,
        _ line: TraceLine,
        _ trace: inout PathTrace
    ) async -> Bool {
        guard await dial(gateways[0].address, line, &trace) else { return false }
        for (index, gateway) in gateways.enumerated() {
            guard await tunnel(line, expecting: gateway.expectation, &trace) else { return false }
            let next = index + 1 < gateways.count ? gateways[index + 1].address : workload
            var headers = access.marks.outer
            headers.append("forwarded", access.marks.trail)
            guard let next, await connect(line, to: next, headers, &trace) else { return false }
        }
        return true
    }

    private func overSSH(_ path: PathID, port: UInt16, _ login: inout TracedLogin?) async -> PathTrace {
        let before = LoginTrace.plan(access.login?.way ?? [])
        let node = port == 0 ? nil : Authority(address: .loopbackIPv4, port: port)
        var trace = PathTrace(path, before + [TraceStep(.channel, between: node)] + Self.tunnel() + Self.opening)
        let line = TraceLine(on: loop, timeout: timeout)
        if let client = await logIn(&login, &trace, before.count),
            await channel(client, to: port, line, &trace),
            await tunnel(line, expecting: access.expectation, &trace)
        {
            await open(line, path, TransportMark.headers(for: .h2OverSSH), &trace)
        }
        await line.end()
        return trace
    }

    private func plainSSH(_ path: PathID, _ login: inout TracedLogin?) async -> PathTrace {
        let before = LoginTrace.plan(access.login?.way ?? [])
        var trace = PathTrace(path, before + [TraceStep(.channel), TraceStep(.firstByte)])
        let line = TraceLine(on: loop, timeout: timeout)
        if let client = await logIn(&login, &trace, before.count), let target = target(for: path, &trace) {
            let (result, duration): TraceLine.Outcome<Void> = await line.run("a channel to \(target)") {
                line,
                completion in
                client.connection.withValue {
                    $0.openDirectTCPIP(host: target.host, port: target.port) { completion($0.map { line.take($0) }) }
                }
            }
            if trace.note(result, duration) { await listen(line, &trace) }
        }
        await line.end()
        return trace
    }

    /// Nobody but the node that has it can use a connection that a device holds.
    private static func held(_ path: PathID) -> PathTrace {
        var trace = PathTrace(path, [TraceStep(.stream), TraceStep(.firstByte)])
        let what =
            "the device dials, and only the running node has what it holds: `bootstrap status --watch` shows that"
        trace.fail(.stream(StreamError(.unreachable, what)))
        return trace
    }

    /// A proxy that is not trusted: its tokens, and what is inside of its stream, are seen as one step.
    private func whole(_ way: PathWay) async -> PathTrace {
        var trace = PathTrace(way.id, [TraceStep(.stream), TraceStep(.firstByte)])
        guard let target = target(for: way.id, &trace) else { return trace }
        let line = TraceLine(on: loop, timeout: timeout)
        let (access, context, settings, loop, logger) = (access, context, settings, loop, logger)
        let (result, duration): TraceLine.Outcome<Void> = await line.run("a stream through the proxy") {
            line,
            completion in
            var one = access
            one.ways = [way]
            let paths = PeerPaths(
                to: one,
                context: context,
                settings: settings,
                on: loop,
                logger: logger,
                onChange: { _ in }
            )
            line.whenOver { paths.shutDown() }
            paths.openStream(to: target) { completion($0.map { line.take($0.stream) }) }
        }
        if trace.note(result, duration) { await listen(line, &trace) }
        await line.end()
        return trace
    }

    // MARK: Steps

    private func dial(_ address: Authority?, _ line: TraceLine, _ trace: inout PathTrace) async -> Bool {
        guard let address else {
            trace.fail(.stream(StreamError(.unreachable, "no address of its node is known")))
            return false
        }
        let start = ContinuousClock.now
        let addresses: [SocketAddress]
        do {
            addresses = try await Resolver.resolve(host: address.host, port: address.port)
        } catch {
            let reason = error as? StreamError ?? StreamError(.unreachable, "\(error)")
            trace.fail(.stream(reason), .now - start)
            return false
        }
        trace.pass(.now - start, address.address == nil ? LoginTrace.list(addresses.map(\.description)) : nil)
        let timeout = timeout
        let (result, duration): TraceLine.Outcome<String> = await line.run("TCP to \(address)") { line, completion in
            // Its own message says more.
            line.dial(addresses, timeout: timeout * 0.99, completion)
        }
        return trace.note(result, duration) { address.address == nil ? $0 : nil }
    }

    /// TLS and HTTP/2.
    private func tunnel(
        _ line: TraceLine,
        expecting expectation: PeerExpectation,
        _ trace: inout PathTrace
    ) async -> Bool {
        guard let context else {
            trace.fail(.stream(StreamError(.authentication, "there is no credential to show")))
            return false
        }
        let (peer, handshake): TraceLine.Outcome<TLSPeer> = await line.run("the TLS handshake") { line, completion in
            line.secure(context, expecting: expectation, completion)
        }
        let passed = trace.note(peer, handshake) { peer in
            [peer.identity?.description, peer.cipher].compactMap { $0 }.joined(separator: ", ")
        }
        guard passed else { return false }
        let http2 = settings.http2(for: .client)
        let (settled, duration): TraceLine.Outcome<Void> = await line.run("SETTINGS") { $0.speak(http2, $1) }
        // TLS 1.3 tells a client by its first read that the server does not accept its certificate.
        if case .failure(let error) = settled, error.code == .authentication {
            trace.failPrevious(.stream(error), after: duration)
            return false
        }
        return trace.note(settled, duration)
    }

    private func connect(
        _ line: TraceLine,
        to authority: Authority,
        _ headers: HeaderFields,
        _ trace: inout PathTrace
    ) async -> Bool {
        let (result, duration): TraceLine.Outcome<Int> = await line.run("CONNECT \(authority)") {
            $0.connect(ConnectRequest(to: authority, headers: headers), $1)
        }
        return trace.note(result, duration) { "\(authority): \($0)" }
    }

    private func open(
        _ line: TraceLine,
        _ path: PathID,
        _ headers: HeaderFields,
        _ trace: inout PathTrace
    ) async {
        guard let target = target(for: path, &trace), await connect(line, to: target, headers, &trace) else { return }
        await listen(line, &trace)
    }

    /// What the stream of `path` is to lead to; nil where it leads nowhere, which `trace` then says.
    private func target(for path: PathID, _ trace: inout PathTrace) -> Authority? {
        guard let target else {
            for _ in 0..<2 { trace.skip("no destination was named (-W HOST:PORT)") }
            return nil
        }
        if let refusal = permits(target, path) {
            trace.fail(.stream(refusal))
            return nil
        }
        return target
    }

    private func listen(_ line: TraceLine, _ trace: inout PathTrace) async {
        let patience = Self.patience
        let (result, duration): TraceLine.Outcome<Int?> = await line.run("the first byte", within: patience) {
            $0.listen($1)
        }
        switch result {
        case .success(let count?): trace.pass(duration, "\(count) bytes at once")
        case .success(nil): trace.skip("the service has ended the stream without a word", duration)
        case .failure(let error) where error.code == .timedOut:
            trace.skip("nothing within \(patience): most services wait for the client", duration)
        case .failure(let error): trace.fail(.stream(error), duration)
        }
    }

    // MARK: SSH

    /// The peer's HBONE server, as its own machine reaches it.
    private func channel(
        _ client: SSHClient,
        to port: UInt16,
        _ line: TraceLine,
        _ trace: inout PathTrace
    ) async -> Bool {
        let (agent, loop, logger) = (access.agent, loop, logger)
        let (result, duration): TraceLine.Outcome<String> = await line.run("a channel to 127.0.0.1:\(port)") {
            line,
            completion in
            let relay = AgentRelay(port: port, agent: agent, on: loop, logger: logger)
            // It holds the process.
            line.whenOver { _ = relay }
            client.connection.withValue { session in
                relay.open(over: session) { result in
                    let note = relay.isNeeded(for: session) ? "through the agent: the SSH server does not forward" : ""
                    completion(
                        result.map { stream in
                            line.take(stream)
                            return note
                        }
                    )
                }
            }
        }
        return trace.note(result, duration) { $0.isEmpty ? "127.0.0.1:\(port)" : $0 }
    }

    /// The login that both ways over SSH share: it is made once, and asks once.
    private func logIn(_ login: inout TracedLogin?, _ trace: inout PathTrace, _ count: Int) async -> SSHClient? {
        var steps: [TraceStep]
        if let login {
            steps = login.steps
            for index in steps.indices where steps[index].outcome != .notReached { steps[index].isShared = true }
        } else {
            let made = await TracedLogin(access.login, on: loop)
            steps = made.steps
            login = made
        }
        trace.take(steps, insteadOf: count)
        if access.login == nil { trace.fail(.stream(StreamError(.unreachable, "there is no SSH login"))) }
        return login?.client
    }
}

/// A login, and what its steps were.
struct TracedLogin: Sendable {
    let client: SSHClient?
    let steps: [TraceStep]

    init(_ login: SSHLogin?, on loop: EventLoop) async {
        guard var login else {
            (client, steps) = (nil, [])
            return
        }
        let progress = Lock<[LoginProgress]>([])
        login.onProgress = { event in progress.withLock { $0.append(event) } }
        let trace = LoginTrace(login.way, began: .now)
        do throws(SSHError) {
            client = try await login.connect(on: loop)
            steps = trace.steps(progress.withLock { $0 }, failure: nil, end: .now)
        } catch {
            client = nil
            steps = trace.steps(progress.withLock { $0 }, failure: error, end: .now)
        }
    }
}

/// A ``TracedConnection`` for async code.
struct TraceLine: Sendable {
    typealias Outcome<Success> = (Result<Success, StreamError>, Duration)

    private let connection: LoopBound<TracedConnection>
    private let timeout: Duration

    init(on loop: EventLoop, timeout: Duration) {
        connection = LoopBound(TracedConnection(on: loop), on: loop)
        self.timeout = timeout
    }

    /// Runs a step on the loop. Its time is taken there: what it takes to come back here is none of the peer's.
    func run<Success: Sendable>(
        _ what: String,
        within timeout: Duration? = nil,
        _ step: @escaping @Sendable (TracedConnection, @escaping TracedConnection.Completion<Success>) -> Void
    ) async -> Outcome<Success> {
        let (connection, timeout) = (connection, timeout ?? self.timeout)
        return await withCheckedContinuation { continuation in
            connection.loop.submit {
                connection.withValue { line in
                    line.within(timeout, what, { step(line, $0) }, { continuation.resume(returning: ($0, $1)) })
                }
            }
        }
    }

    /// The other side has been told when this returns.
    func end() async {
        _ = try? await connection.loop.execute { [connection] in connection.withValue { $0.end() } }
        // GOAWAY leaves in the turn after.
        _ = try? await connection.loop.execute {}
    }
}

extension PathTrace {
    /// Takes down what became of the next step.
    ///
    /// - Returns: Whether it has passed.
    fileprivate mutating func note<Success>(
        _ result: Result<Success, StreamError>,
        _ duration: Duration,
        _ detail: (Success) -> String? = { _ in nil }
    ) -> Bool {
        switch result {
        case .success(let value): pass(duration, detail(value))
        case .failure(let error): fail(.stream(error), duration)
        }
        if case .success = result { return true }
        return false
    }
}
