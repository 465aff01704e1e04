import H2Transport
import MeshIdentity
import Platform
import Streams

/// `h2-via-gateway`, double HBONE: mutual TLS and HTTP/2 to the workload inside of a stream through gateways, which see
/// no more than ciphertext. Confined to its event loop.
///
/// ```
///   TCP ─ TLS ─ HTTP/2 ─ stream ─ TLS ─ HTTP/2 ─ streams
///        to the gateway, once     to the workload, once for each destination: the gateway decides by the
///                                 destination where it leads, so that two of them may be two workloads
/// ```
///
/// Where the peer itself has named the gateway, there is one workload, its own HBONE server, for all destinations.
///
/// With several gateways each one is reached through those before it. A peer with one destination is up when its
/// workload is; one with many when the last gateway is, and what becomes of a workload is that destination's affair.
final class GatewaySource: PathSource {
    /// Makes one of the tunnels: over what leads there, and over the same in small packets where that is possible.
    typealias Maker = (
        _ over: @escaping TunnelSource.LowerDialer, _ again: TunnelSource.LowerDialer?, _ expecting: PeerExpectation,
        TLSContext, ConnectionSettings
    ) -> TunnelSource

    /// The inner connection for one destination.
    private final class Workload {
        let tunnel: TunnelOnDemand
        /// Of whoever made the connection necessary, for the gateways on the way: where it came through, and its trace.
        var trail: HeaderFields?

        init(_ tunnel: TunnelOnDemand) { self.tunnel = tunnel }
    }

    var events = PathEvents()

    private let gateways: [Gateway]
    /// To each gateway, nearest first.
    private var hops: [TunnelOnDemand] = []
    private let expectation: PeerExpectation
    /// The only destination there is; nil: there may be many.
    private let single: Authority?
    /// What the gateways are asked for, whatever a stream's destination is: they lead to the peer's HBONE server by its
    /// own word, and what they answer is no answer of the peer's. nil: they are asked for the destination.
    private let home: Authority?
    private let make: Maker
    private var context: TLSContext
    private var settings: ConnectionSettings
    private var marks: GatewayMarks
    private var workloads: [Authority: Workload] = [:]
    private var last: (authority: Authority, workload: Workload)?
    /// Of whoever asked for a connection last.
    private var trail = HeaderFields()
    private let loop: EventLoop
    /// Lets the gateways go a moment after the workloads, which say goodbye over them.
    private var parting: LoopTimer?

    /// Destinations that may have a connection at once.
    private static let mostWorkloads = 1024
    private static let goodbye: Duration = .seconds(1)

    /// - Parameters:
    ///   - gateways: Nearest first; at least one.
    ///   - single: The only destination; nil: there may be many.
    ///   - home: What the gateways call the peer's HBONE server, which is asked for all destinations then; nil: they
    ///     are asked for these.
    ///   - expectation: Who the workload must be.
    ///   - marks: What is said to gateways and to workloads.
    ///   - dial: Connects to the first gateway.
    ///   - dialAgain: The same in small packets.
    ///   - context: Of the connections that are made, until another one is taken.
    ///   - settings: Likewise.
    ///   - make: Makes a tunnel.
    init(
        through gateways: [Gateway],
        to single: Authority?,
        home: Authority? = nil,
        expecting expectation: PeerExpectation,
        marks: GatewayMarks,
        over dial: @escaping TunnelSource.LowerDialer,
        again dialAgain: TunnelSource.LowerDialer?,
        context: TLSContext,
        settings: ConnectionSettings,
        on loop: EventLoop,
        _ make: @escaping Maker
    ) {
        precondition(!gateways.isEmpty, "a path through gateways needs one")
        self.gateways = gateways
        self.single = home ?? single
        self.home = home
        self.expectation = expectation
        self.marks = marks
        self.context = context
        self.settings = settings
        self.loop = loop
        self.make = make
        parting = LoopTimer(on: loop) { [weak self] in self?.part() }
        for index in gateways.indices {
            let tunnel = TunnelOnDemand(
                index == 0
                    ? make(
                        named(gateways[0], dial),
                        dialAgain.map { named(gateways[0], $0) },
                        gateways[0].expectation,
                        context,
                        settings
                    )
                    : make(
                        through(index - 1, to: gateways[index].address),
                        nil,
                        gateways[index].expectation,
                        context,
                        settings
                    )
            )
            tunnel.source.onDraining = { [weak self] in self?.leave($0) }
            hops.append(tunnel)
        }
        guard self.single == nil, let gateway = hops.last else { return }
        gateway.events = PathEvents(
            up: { [weak self] in self?.events.up() },
            down: { [weak self] in self?.events.down($0, $1) },
            rest: { [weak self] in self?.events.rest() },
            idle: { [weak self] in
                if let self, streamCount == 0 { events.idle() }
            }
        )
    }

    /// What fails there says which hop it is.
    private func named(_ gateway: Gateway, _ dial: @escaping TunnelSource.LowerDialer) -> TunnelSource.LowerDialer {
        { completion in
            dial { completion($0.mapError { StreamError($0.code, "gateway \(gateway.address): \($0.message)") }) }
        }
    }

    /// A stream through gateway `index` to `authority`.
    private func through(
        _ index: Int,
        to authority: Authority,
        for workload: (() -> Workload?)? = nil
    ) -> TunnelSource.LowerDialer {
        let gateway = gateways[index].address
        return { [weak self, loop] completion in
            guard let self else {
                return loop.later { completion(.failure(StreamError(.closed, "the path was closed"))) }
            }
            var headers = marks.outer
            let trail = workload?()?.trail ?? self.trail
            self.trail = trail
            headers.append("forwarded", trail["forwarded"] ?? marks.trail)
            if let trace = trail["traceparent"] { headers.append("traceparent", trace) }
            hops[index].open(to: authority, headers: headers) { result in
                completion(
                    result.mapError { failure in
                        guard let error = failure.error else {
                            return StreamError(.closed, "the connection to gateway \(gateway) was lost")
                        }
                        // What failed before this gateway says so itself.
                        if error.message.hasPrefix("gateway ") { return error }
                        return StreamError(error.code, "gateway \(gateway): \(error.message)")
                    }
                )
            }
        }
    }

    // MARK: Workloads

    private func workload(for destination: Authority) -> Workload? {
        let authority = home ?? destination
        if let last, last.authority == authority { return last.workload }
        guard let workload = workloads[authority] ?? makeWorkload(for: authority) else { return nil }
        last = (authority, workload)
        return workload
    }

    private func makeWorkload(for authority: Authority) -> Workload? {
        if workloads.count >= Self.mostWorkloads {
            for (other, workload) in workloads where workload.tunnel.streamCount == 0 { forget(other, workload) }
            guard workloads.count < Self.mostWorkloads else { return nil }
        }
        parting?.cancel()
        let dial = through(gateways.count - 1, to: authority) { [weak self] in self?.workloads[authority] }
        let source = make(dial, nil, expectation, context, settings)
        source.mark = marks.inner
        let workload = Workload(TunnelOnDemand(source))
        workloads[authority] = workload
        let isSingle = single != nil
        workload.tunnel.events = PathEvents(
            up: { [weak self] in if isSingle { self?.events.up() } },
            down: { [weak self] error, wasUsed in
                guard let self, isSingle else { return }
                // The gateway is there, and its word is the answer to whoever asks: no other path is to get round it.
                if home == nil, Self.isAnswer(error) { events.up() } else { events.down(error, wasUsed) }
            },
            rest: { [weak self] in if isSingle { self?.events.rest() } },
            idle: { [weak self, weak workload] in
                guard let self else { return }
                if isSingle { return events.idle() }
                if let workload, workload.tunnel.streamCount == 0 { forget(authority, workload) }
            }
        )
        return workload
    }

    private func forget(_ authority: Authority, _ workload: Workload) {
        workloads[authority] = nil
        last = nil
        workload.tunnel.reset()
    }

    /// Whether it says what a gateway has decided, and not that something cannot be reached.
    private static func isAnswer(_ error: StreamError) -> Bool {
        switch error.code {
        case .denied, .loop, .badRequest: true
        default: false
        }
    }

    /// A gateway takes no more streams on `connection`: what runs inside of those that are open begins nothing new
    /// there, or it would hold the gateway for as long as it is used.
    private func leave(_ connection: H2Connection) {
        for hop in hops { hop.source.retire(over: connection) }
        for workload in workloads.values { workload.tunnel.source.retire(over: connection) }
    }

    // MARK: PathSource

    var peer: SPIFFEID? {
        let peers = Set(workloads.values.compactMap(\.tunnel.source.peer))
        return peers.count == 1 ? peers.first : nil
    }

    var streamCount: Int { workloads.values.reduce(0) { $0 + $1.tunnel.streamCount } }

    var roundTripTime: Duration? { workloads.values.compactMap(\.tunnel.source.roundTripTime).min() }

    func expect(_ headers: HeaderFields) { trail = headers }

    func networkChanged(_ change: NetworkChange) {
        for hop in hops { hop.source.networkChanged(change) }
        for workload in workloads.values { workload.tunnel.source.networkChanged(change) }
    }

    func establish() {
        parting?.cancel()
        if let single { workload(for: single)?.tunnel.establish() } else { hops.last?.establish() }
    }

    func open(
        to authority: Authority,
        headers: HeaderFields,
        completion: @escaping (Result<ByteStream, PathFailure>) -> Void
    ) {
        guard let workload = workload(for: authority) else {
            let error = StreamError(.limit, "\(Self.mostWorkloads) destinations are in use behind these gateways")
            return loop.later { completion(.failure(.refused(error))) }
        }
        let tunnel = workload.tunnel
        if tunnel.isUp { return tunnel.source.open(to: authority, headers: headers, completion: completion) }
        workload.trail = headers
        tunnel.open(to: authority, headers: headers) { [weak self] result in
            guard let self, home == nil, case .failure(.pathLost(let error?)) = result,
                Self.isAnswer(error) || single == nil && hops.last?.isUp == true
            else { return completion(result) }
            completion(.failure(.refused(error)))
        }
    }

    func isElsewhere(_ place: ResumptionPlace, from authority: Authority) -> Bool {
        workloads[home ?? authority]?.tunnel.source.isElsewhere(place, from: authority) ?? false
    }

    func use(_ context: TLSContext, _ settings: ConnectionSettings) {
        (self.context, self.settings) = (context, settings)
        for hop in hops { hop.source.use(context, settings) }
        for workload in workloads.values { workload.tunnel.source.use(context, settings) }
    }

    /// What is said from now on.
    func use(_ marks: GatewayMarks) {
        self.marks = marks
        for workload in workloads.values { workload.tunnel.source.mark = marks.inner }
    }

    func release() {
        let former = workloads
        workloads = [:]
        last = nil
        for workload in former.values { workload.tunnel.reset() }
        parting?.schedule(after: Self.goodbye)
    }

    func reset() {
        release()
        parting?.cancel()
        for hop in hops.reversed() { hop.reset() }
    }

    func distrust() -> Bool {
        let keeping = workloads.filter { $0.value.tunnel.distrust() }
        guard !keeping.isEmpty else {
            reset()
            return false
        }
        // The gateways carry what goes on.
        workloads = keeping
        last = nil
        return true
    }

    private func part() {
        guard workloads.isEmpty else { return }
        for hop in hops.reversed() { hop.reset() }
    }
}
