package import H2Transport
package import Logging
package import MeshIdentity
package import Platform
package import Streams

/// Holds a connection to one gateway, so that this node can be reached through it though nobody can dial it. Confined
/// to its event loop.
///
/// ```
///   waiting ── pause over ──→ dialling: TCP, TLS (ALPN h2r), HTTP/2 ──→ held
///      ↑                          │ failed                               │ lost, GOAWAY
///      └──────────────────────────┴──────────────────────────────────────┘
///   held, too old or the certificate was renewed ──→ dialling beside it ──→ held anew, and the old one is retired
/// ```
///
/// What peers of the gateway ask for comes to the node's own HBONE server, as over any connection.
package final class GatewayDialer {
    /// How it stands, for people.
    package struct Report: Sendable {
        package let gateway: String
        package let isHeld: Bool
        /// Who the gateway proved to be.
        package let peer: SPIFFEID?
        package let streams: Int
        package let roundTripTime: Duration?
        /// Of what is held.
        package let age: Duration?
        /// Why there is none, or why the last attempt failed to make a newer one.
        package let failure: String?
    }

    /// Has the node's server serve what was dialled.
    package typealias Serve = (TLSStream, @escaping HBONEServer.DialledHandler) -> H2Connection?

    private let address: Authority
    private let expectation: PeerExpectation
    private let loop: EventLoop
    private let logger: Logger
    private let serve: Serve
    private var context: TLSContext
    private var settings: ConnectionSettings
    private var pause: RedialPause
    private var timer: LoopTimer?
    /// New streams come by it.
    private var current: H2Connection?
    private var heldSince: UInt64 = 0
    private var isDialling = false
    private weak var list: DialList?
    /// Counts the attempts: what becomes of an earlier one says nothing of this one.
    private var attempt = 0
    /// Counts the certificates.
    private var generation = 0
    /// Was dialled, and the gateway has not said anything yet.
    private var candidate: H2Connection?
    private var failure: StreamError?
    private var isStopped = false

    /// - Parameters:
    ///   - address: Where the gateway's HBONE server listens.
    ///   - expectation: Who it must be.
    ///   - context: The credential to show, with ALPN `h2r` alone.
    ///   - settings: Timeouts of the connection.
    ///   - pause: Between attempts.
    ///   - loop: Where it lives.
    ///   - logger: Told what becomes of the connection.
    ///   - serve: Takes over what was dialled.
    package init(
        to address: Authority,
        expecting expectation: PeerExpectation,
        context: TLSContext,
        settings: ConnectionSettings,
        pause: RedialPause = RedialPause(),
        on loop: EventLoop,
        logger: Logger,
        serve: @escaping Serve
    ) {
        self.pause = pause
        self.address = address
        self.expectation = expectation
        self.context = context
        self.settings = settings
        self.loop = loop
        self.logger = logger
        self.serve = serve
        timer = LoopTimer(on: loop) { [weak self] in self?.dial() }
    }

    /// Dials at once, and again for as long as it lives.
    package func start() { dial() }

    /// Other settings, or another credential.
    ///
    /// - Parameter isRenewed: The certificate is another one: a connection that shows it replaces the one that is held.
    package func use(_ context: TLSContext, _ settings: ConnectionSettings, isRenewed: Bool) {
        self.context = context
        self.settings = settings
        guard isRenewed else { return }
        generation += 1
        if current != nil { schedule(pause.replacing(Self.chance)) }
    }

    /// Addresses or routes of this machine have changed: no attempt waits for its pause to end, and what is held must
    /// answer, or is replaced.
    package func networkChanged(_ change: NetworkChange) {
        guard !isStopped else { return }
        list?.hurry()
        guard let connection = current else { return schedule(pause.replacing(Self.chance)) }
        if let own = connection.localAddress?.address, change.gone.contains(own) {
            return lost("this machine has the address \(own) no more")
        }
        guard !connection.isBeingProbed else { return }
        let time = connection.roundTripTime == nil ? AnswerTime.unmeasured : AnswerTime.allowed(connection)
        connection.probe(timeout: time) { [weak self, weak connection] isAlive in
            guard !isAlive, let self, let connection, connection === current else { return }
            schedule(.zero)
        }
    }

    /// Dials no more. What is held is the server's.
    package func stop() {
        isStopped = true
        timer?.cancel()
        current = nil
        candidate = nil
    }

    /// The node's configuration names the gateway no more: who takes one away may have a reason not to trust it.
    package func leave() {
        let made = [current, candidate]
        stop()
        let reason = StreamError(.denied, "the configuration names the gateway \(address) no more")
        for connection in made { connection?.abort(reason) }
    }

    package var report: Report {
        Report(
            gateway: address.description,
            isHeld: current != nil,
            peer: current?.peer,
            streams: current?.streamCount ?? 0,
            roundTripTime: current?.shortestRoundTripTime,
            age: current.map { _ in Duration.nanoseconds(Int64(clamping: loop.now &- min(heldSince, loop.now))) },
            failure: failure?.message
        )
    }

    // MARK: Dialling

    private static var chance: Double { Double.random(in: 0..<1) }

    private func schedule(_ time: Duration) {
        guard !isStopped, !isDialling else { return }
        timer?.schedule(after: time)
    }

    private func dial() {
        guard !isStopped, !isDialling else { return }
        timer?.cancel()
        isDialling = true
        attempt += 1
        let number = attempt
        let list = DialList(
            [address],
            on: loop,
            timeout: settings.connectTimeout,
            multipath: settings.multipath
        ) { [weak self] result in
            switch result {
            case .success(let lower):
                guard let self, !isStopped else { return lower.reset(Self.gone) }
                secure(lower, number)
            case .failure(let error): self?.failed(error, number)
            }
        }
        self.list = list
        list.start()
    }

    private static let gone = StreamError(.closed, "the node does not want it any more")

    private func secure(_ lower: ByteStream, _ number: Int) {
        let generation = generation
        let stream = TLSStream(over: lower, context: context, expecting: expectation)
        stream.startHandshake { [weak self] result in
            guard let self, !isStopped else { return stream.reset(Self.gone) }
            switch result {
            case .failure(let error): failed(error, number)
            case .success(let peer):
                guard peer.applicationProtocol == ReverseProtocol.name else {
                    let error = StreamError(
                        .protocolViolation,
                        "it knows no reverse connections (ALPN \(ReverseProtocol.name)): is it a node of this release?"
                    )
                    stream.reset(error)
                    return failed(error, number)
                }
                let connection = serve(stream) { [weak self] in self?.handle($0, $1, number, generation) }
                guard let connection else { return failed(StreamError(.closed, "it ended at once"), number) }
                candidate = connection
            }
        }
    }

    private func failed(_ error: StreamError, _ number: Int) {
        guard isDialling, number == attempt, !isStopped else { return }
        isDialling = false
        candidate = nil
        failure = error
        let time = pause.failed(Self.chance)
        logger.warning(
            "no connection to the gateway \(address)",
            metadata: ["reason": "\(error.message)", "again in": "\(time.wholeMilliseconds)"]
        )
        schedule(time)
    }

    // MARK: The connection

    private func handle(
        _ connection: H2Connection,
        _ event: HBONEServer.DialledEvent,
        _ number: Int,
        _ generation: Int
    ) {
        guard !isStopped else { return }
        switch event {
        case .settled: if connection === candidate { held(connection, generation) }
        case .draining:
            if connection === current { return lost("it lets go of the connection", isOrderly: true) }
            if connection === candidate { failed(StreamError(.draining, "it takes no connections now"), number) }
        case .tooOld: if connection === current { schedule(.zero) }
        case .closed(let reason):
            if connection === current { return lost(reason?.message ?? "it has let go of the connection") }
            let why = reason.map { " (\($0.message))" } ?? ""
            failed(
                StreamError(
                    reason?.code ?? .refused,
                    "it ended the connection after the handshake\(why): it needs an endpoint with 'reverse: true' and "
                        + "this node's identity; its log says what is missing"
                ),
                number
            )
        }
    }

    private func held(_ connection: H2Connection, _ generation: Int) {
        isDialling = false
        candidate = nil
        failure = nil
        let former = current
        current = connection
        heldSince = loop.now
        logger.notice(
            "reachable through the gateway \(address)",
            metadata: ["identity": "\(connection.peerDescription)"]
        )
        former?.retire()
        // Renewed while the handshake ran.
        if generation != self.generation { schedule(pause.replacing(Self.chance)) }
    }

    /// - Parameter isOrderly: The gateway has said so, and ends what it has.
    private func lost(_ reason: String, isOrderly: Bool = false) {
        current = nil
        failure = StreamError(.closed, reason)
        let age = Duration.nanoseconds(Int64(clamping: loop.now &- min(heldSince, loop.now)))
        let time = pause.lost(after: age, isOrderly: isOrderly, Self.chance)
        logger.notice(
            "not reachable through the gateway \(address) any more",
            metadata: ["reason": "\(reason)", "again in": "\(time.wholeMilliseconds)"]
        )
        schedule(time)
    }
}
