import MeshIdentity
import MeshPaths
import MeshPolicy
import Platform
import Streams

/// A connection that could have another request when the node drains.
protocol DrainingConnection: AnyObject {
    /// It ends after the request that it has.
    func drain()
    /// A reload has changed what holds.
    func rulesChanged()
    /// The time to drain is over.
    func cut(_ reason: StreamError)
}

extension DrainingConnection {
    func rulesChanged() {}
    func cut(_ reason: StreamError) {}
}

/// How much a listener has to do on one event loop. Confined to it.
final class IngressLoad {
    var connections = 0
    var requests = 0
}

/// What a stream is used for that carries one request after the other; a reload decides about the last. Confined to its
/// loop.
final class StreamUse {
    var request: StreamRequest

    init(_ request: StreamRequest) { self.request = request }
}

/// The relays that run on one event loop, with what policy decided about them: so that a reload can decide again, a
/// drain can wait, and a status can count. Confined to its loop.
final class LiveStreams {
    private struct Entry {
        let relay: Relay
        let request: StreamRequest
        let path: PathID?
        let dialled: SocketAddress?
        /// Which certificate its client has shown; a server of HBONE looks after those of its own clients.
        let certificate: CertificateName?
        let use: StreamUse?
        let ticket: StreamTicket?
        /// Where it comes from, what it comes over, and what it goes on over, may change while it is open.
        let incoming: ResumableStream?
        let outgoing: ResumableStream?

        var currentRequest: StreamRequest { incoming?.movedBy ?? use?.request ?? request }
        var currentPath: PathID? { outgoing?.path ?? path }
    }

    /// Each stream keeps its place; nil where one is free.
    private var entries: ContiguousArray<Entry?> = []
    /// What the program that the node is part of wants to see of streams; nil: of none.
    let filters: StreamFilters?
    private var freePlaces: ContiguousArray<Int> = []
    private var emptied: [() -> Void] = []

    private(set) var count = 0
    /// The node takes nothing new: a connection that could have another request ends after this one.
    private(set) var isDraining = false
    /// Of clients that have one request after the other.
    var connections: [ObjectIdentifier: any DrainingConnection] = [:]
    /// Those that have to tell their clients that they go, which takes a round trip.
    private var leaving = 0
    private var loads: [String: IngressLoad] = [:]

    init(filters: StreamFilters? = nil) { self.filters = filters }

    func startDraining() {
        isDraining = true
        for connection in Array(connections.values) { connection.drain() }
    }

    func rulesChanged() {
        for connection in Array(connections.values) { connection.rulesChanged() }
    }

    /// What `listener` has to do here.
    func load(of listener: NodeConfiguration.Listener) -> IngressLoad {
        if let load = loads[listener.name] { return load }
        let load = IngressLoad()
        loads[listener.name] = load
        return load
    }

    /// Joins a stream with its far end and keeps track of them until they are done.
    ///
    /// - Parameters:
    ///   - early: What has been read from the stream already, which the far end gets first.
    ///   - certificate: Which the client has shown, where nobody else cuts the stream when it is revoked.
    ///   - front: Where it came in.
    ///   - isTransit: Neither of its ends is here, and no endpoint lets a filter see it.
    ///   - use: For a stream that has one request after the other.
    func relay(
        _ first: ByteStream,
        early: [UInt8] = [],
        certificate: CertificateName? = nil,
        _ opened: StreamOpener.Opened,
        for request: StreamRequest,
        at front: FrontName,
        isTransit: Bool = false,
        use: StreamUse? = nil,
        completion: @escaping (RelayResult) -> Void
    ) {
        let place = freePlaces.popLast() ?? entries.count
        let ticket = opened.ticket
        let filtered = isTransit ? nil : filters?.stream(for: request, opened, at: front)
        let relay = Relay(first, filtered ?? opened.stream) { [self] result in
            var result = result
            if let filtered { filtered.correct(&result) }
            leave(place)
            ticket?.end(result)
            completion(result)
            tellIfEmpty()
        }
        let incoming = first as? ResumableStream
        if let incoming { opened.opening?.incoming = incoming }
        if place == entries.count { entries.append(nil) }
        // Where it came through was for opening it.
        entries[place] = Entry(
            relay: relay,
            request: request.withoutHops,
            path: opened.path,
            dialled: opened.dialled,
            certificate: certificate,
            use: use,
            ticket: ticket,
            incoming: incoming,
            outgoing: opened.lowest as? ResumableStream
        )
        count += 1
        relay.start(early: early)
    }

    /// A connection tells its client that it goes: ``whenEmpty(_:)`` waits until it ``hasLeft()``.
    func isLeaving() { leaving += 1 }

    func hasLeft() {
        leaving -= 1
        tellIfEmpty()
    }

    private func tellIfEmpty() {
        guard count == 0, leaving == 0, !emptied.isEmpty else { return }
        let waiting = emptied
        emptied = []
        for resume in waiting { resume() }
    }

    private func leave(_ place: Int) {
        entries[place] = nil
        count -= 1
        freePlaces.append(place)
        // What a crowd has taken up is not kept.
        guard count == 0, entries.count > 1024 else { return }
        entries = []
        freePlaces = []
    }

    /// Cuts every stream that policy no longer allows, or whose client's certificate does not hold any more. Returns
    /// how many.
    func recheck(with planner: StreamPlanner, trust: TrustBundleSet) -> Int {
        let now = WallClock.system.seconds
        let losers: [(Relay, StreamError)] = entries.compactMap { entry in
            guard let entry else { return nil }
            if let certificate = entry.certificate, case .peer(let peer) = entry.request.source,
                let objection = trust.objection(to: certificate, of: peer)
            {
                return (entry.relay, StreamError(.denied, objection))
            }
            let dialled = entry.dialled.flatMap { peer in peer.address.map { ($0, peer.port) } }
            return planner.refusal(of: entry.currentRequest.at(now), over: entry.currentPath, dialled: dialled)
                .map { (entry.relay, $0) }
        }
        for (relay, refusal) in losers { relay.cut(StreamError(.denied, "policy changed: \(refusal.message)")) }
        return losers.count
    }

    /// What has been counted of streams, and what those that are open have carried so far.
    func adding(to fronts: [FrontStatistics]) -> [FrontStatistics] {
        var fronts = fronts
        for case let entry? in entries {
            guard let ticket = entry.ticket, let index = fronts.firstIndex(where: { $0.front == ticket.front }) else {
                continue
            }
            let moved = entry.relay.progress
            fronts[index].addLive(sent: moved.forward, received: moved.backward)
        }
        return fronts
    }

    /// Calls `body` with the streams that are open and recorded, and with what each has carried.
    func eachRecorded(_ body: (StreamTicket, _ sent: UInt64, _ received: UInt64) -> Void) {
        for case let entry? in entries {
            guard let ticket = entry.ticket else { continue }
            let moved = entry.relay.progress
            body(ticket, moved.forward, moved.backward)
        }
    }

    /// Calls `body` on the loop when no stream is left, at once if none is.
    func whenEmpty(_ body: @escaping () -> Void) {
        if count == 0, leaving == 0 { body() } else { emptied.append(body) }
    }

    func cutAll(_ reason: StreamError) {
        for entry in Array(entries) { entry?.relay.cut(reason) }
        for connection in Array(connections.values) { connection.cut(reason) }
    }
}
