import Glibc
package import H2Transport
package import Logging
import MeshIdentity
package import MeshPolicy
import Platform
package import Streams

/// The resumable streams of one event loop: those that peers have opened, who may come back for them, and what is to be
/// done for all of them by and by. Confined to its loop.
package final class Resumptions {
    /// A stream that a peer has opened.
    private struct Held {
        let stream: ResumableStream
        let peer: SPIFFEID
        let ticket: ResumptionTicket
        let destination: Authority
    }

    /// Why a stream is not resumed.
    package enum Refusal: Error, Hashable, Sendable {
        /// There is none that the peer might have; which of the reasons is for this side's log.
        case unknown(String)
        /// The token was used, or a later one.
        case replayed(String)
        /// The position cannot be.
        case impossible(String)

        package var rejection: ConnectRejection {
            let (status, details) =
                switch self {
                case .unknown: (404, "there is no such stream to resume")
                case .replayed: (409, "the token was used")
                case .impossible: (400, "the stream cannot go on from there")
                }
            return ConnectRejection(
                status: status,
                reason: ProxyStatus(error: "http_request_error", details: details)
            )
        }

        package var reason: String {
            switch self {
            case .unknown(let reason), .replayed(let reason), .impossible(let reason): reason
            }
        }
    }

    package let loop: EventLoop
    package let directory: ResumptionDirectory
    private let number: UInt8
    private let log: PeerLog
    /// For how long a stream waits for a carrier.
    package var timeout: Duration
    private var held: [UInt64: Held] = [:]
    private var lastID: UInt64 = 0
    private var randomBytes: ArraySlice<UInt8> = []
    private var owing: ContiguousArray<ResumableStream> = []
    private var starved: ContiguousArray<ResumableStream> = []
    /// Without a carrier, since when.
    private var waiting: [ObjectIdentifier: (stream: ResumableStream, since: UInt64)] = [:]
    private var timer: LoopTimer?
    /// Those with bytes that are not acknowledged.
    private var watched: ContiguousArray<ResumableStream> = []
    private var watchTimer: LoopTimer?

    /// How long an acknowledgement waits for bytes that it can go with.
    private static let pause: Duration = .milliseconds(100)
    private static let limit = 1 << 20

    /// - Parameters:
    ///   - loop: Where it lives.
    ///   - directory: What this loop has in common with the others.
    ///   - number: Of the loop in the directory.
    ///   - timeout: For how long a stream waits for a carrier.
    ///   - logger: Told of what peers try that they must not.
    package init(
        on loop: EventLoop,
        directory: ResumptionDirectory = ResumptionDirectory(),
        number: UInt8 = 0,
        timeout: Duration = ConnectionSettings.defaults.resumeTimeout,
        logger: Logger
    ) {
        self.loop = loop
        self.directory = directory
        self.number = number
        self.timeout = timeout
        log = PeerLog(logger, on: loop)
        timer = LoopTimer(on: loop) { [weak self] in self?.tick() }
        watchTimer = LoopTimer(on: loop) { [weak self] in self?.look() }
    }

    /// Streams that peers open are found by the other loops from now on.
    package func serve() { directory.enter(self, number: number) }

    /// Nobody comes back for them.
    package func shutDown() {
        directory.leave(number)
        timer?.cancel()
        watchTimer?.cancel()
        for (stream, _) in Array(waiting.values) { stream.lose(StreamError(.reset, "the node has stopped")) }
    }

    // MARK: Streams that peers open

    /// Whether the client of `pending` can resume what it asks for.
    package static func isOffered(_ pending: PendingConnect) -> Bool {
        pending.peer != nil && pending.request.headers[ResumptionField.name] == ResumptionField.offer
    }

    /// What `pending` says of the stream that it is to resume; nil: it asks for a new one.
    package static func field(in pending: PendingConnect) -> String? {
        guard let field = pending.request.headers[ResumptionField.name], field.utf8.count > 1 else { return nil }
        return field
    }

    /// Accepts a request whose client can resume. nil: the client has given up.
    ///
    /// - Parameter headers: Of the answer, beside what it says of the stream.
    package func accept(
        _ pending: PendingConnect,
        over transport: Transport,
        headers: HeaderFields = [:]
    ) -> ByteStream? {
        guard let peer = pending.peer, held.count < Self.limit else { return pending.accept(headers: headers) }
        let ticket = ResumptionTicket(id: newID(), secret: newSecret())
        var headers = headers
        headers.append(ResumptionField.name, ticket.field)
        guard let carrier = pending.accept(headers: headers) else { return nil }
        let stream = ResumableStream(
            over: carrier,
            to: pending.destination.description,
            isClient: false,
            of: self,
            in: self
        )
        stream.id = ticket.id
        stream.transport = transport
        held[ticket.id] = Held(stream: stream, peer: peer, ticket: ticket, destination: pending.destination)
        return stream
    }

    private func newID() -> UInt64 {
        lastID += 1
        return UInt64(number) << 56 | lastID & (1 << 56 - 1)
    }

    private func newSecret() -> [UInt8] {
        if randomBytes.count < ResumptionTicket.secretSize { randomBytes = Digest.randomBytes(1024)[...] }
        defer { randomBytes = randomBytes.dropFirst(ResumptionTicket.secretSize) }
        return Array(randomBytes.prefix(ResumptionTicket.secretSize))
    }

    /// Has a stream go on over another carrier, where `peer` proves that it may.
    ///
    /// - Parameter carrier: Made only when everything is right; what it makes belongs to the stream.
    /// - Returns: Where the client goes on.
    private func resume(
        _ request: ResumptionRequest,
        of peer: SPIFFEID?,
        to destination: Authority,
        over transport: Transport,
        _ carrier: (_ position: UInt64) -> ByteStream?
    ) throws(Refusal) {
        guard let entry = held[request.id] else { throw .unknown("there is no stream \(request.id)") }
        // Whoever is somebody else learns nothing, not even that there is a stream.
        guard entry.peer == peer, request.isProved(by: entry.ticket) else {
            throw .unknown(entry.peer == peer ? "the token is wrong" : "the stream is another identity's")
        }
        guard entry.destination == destination else { throw .unknown("the stream leads to \(entry.destination)") }
        do throws(ResumptionViolation) {
            try entry.stream.state.check(generation: request.generation, position: request.position)
        } catch {
            throw request.generation <= entry.stream.state.generation
                ? .replayed("\(error)") : .impossible("\(error)")
        }
        guard let carrier = carrier(entry.stream.state.position) else { return }
        do throws(ResumptionViolation) {
            entry.stream.transport = transport
            let reason = entry.stream.lastFailure ?? "the client has moved it"
            try entry.stream.attach(
                carrier,
                generation: request.generation,
                position: request.position,
                because: reason
            )
        } catch {
            carrier.reset(StreamError(.protocolViolation, "\(error)"))
        }
    }

    /// Answers a request to resume, which policy has allowed. The stream may be another loop's: then its bytes go
    /// through a pair of sockets.
    ///
    package func resume(_ pending: PendingConnect, _ field: String, over transport: Transport) {
        guard let request = ResumptionRequest(field) else {
            return answer(pending, .impossible("the field makes no sense"))
        }
        guard let home = directory.loop(of: request.id) else {
            return answer(pending, .unknown("there is no stream \(request.id)"))
        }
        guard home.loop !== loop else {
            do throws(Refusal) {
                try resume(request, of: pending.peer, to: pending.destination, over: transport) { position in
                    pending.accept(headers: [ResumptionField.name: Hexadecimal.text(position)])
                }
            } catch {
                answer(pending, error)
            }
            return
        }
        bridge(pending, request, home, transport)
    }

    private func answer(_ pending: PendingConnect, _ refusal: Refusal) {
        log.log(
            .warning,
            "a stream was not resumed",
            of: pending.peer?.description ?? "unauthenticated",
            ["reason": "\(refusal.reason)", "to": "\(pending.destination)"]
        )
        pending.reject(refusal.rejection)
    }

    private func bridge(
        _ pending: PendingConnect,
        _ request: ResumptionRequest,
        _ home: LoopBound<Resumptions>,
        _ transport: Transport
    ) {
        let near: Socket
        let descriptor: Int32
        do throws(StreamError) {
            (near, descriptor) = try Socket.pairWithDescriptor(on: loop)
        } catch {
            return answer(pending, .impossible("\(error)"))
        }
        let (peer, destination) = (pending.peer, pending.destination)
        let own = LoopBound((resumptions: self, pending: pending, near: near), on: loop)
        let isRunning = home.loop.submitIfRunning {
            let result: Result<UInt64, Refusal> = home.withValue { home in
                home.resumeBridged(request, of: peer, to: destination, over: transport, descriptor)
            }
            own.loop.submit {
                own.withValue { $0.resumptions.bridged(result, $0.pending, $0.near, request, home) }
            }
        }
        guard !isRunning else { return }
        _ = Glibc.close(descriptor)
        near.close()
        answer(pending, .unknown("its loop has shut down"))
    }

    private func resumeBridged(
        _ request: ResumptionRequest,
        of peer: SPIFFEID?,
        to destination: Authority,
        over transport: Transport,
        _ descriptor: Int32
    ) -> Result<UInt64, Refusal> {
        var result = Result<UInt64, Refusal>.failure(.impossible("there is no socket"))
        var isTaken = false
        do throws(Refusal) {
            try resume(request, of: peer, to: destination, over: transport) { position in
                isTaken = true
                guard let socket = try? Socket(adopting: descriptor, on: loop) else { return nil }
                result = .success(position)
                return socket
            }
        } catch {
            result = .failure(error)
        }
        if !isTaken { _ = Glibc.close(descriptor) }
        return result
    }

    private func bridged(
        _ result: Result<UInt64, Refusal>,
        _ pending: PendingConnect,
        _ near: Socket,
        _ request: ResumptionRequest,
        _ home: LoopBound<Resumptions>
    ) {
        switch result {
        case .failure(let refusal):
            near.close()
            answer(pending, refusal)
        case .success(let position):
            let gone = StreamError(.closed, "the client gave up")
            guard let carrier = pending.accept(headers: [ResumptionField.name: Hexadecimal.text(position)]) else {
                near.reset(gone)
                return
            }
            let relay = Relay(carrier, near) { _ in
                guard carrier.wasResetByPeer else { return }
                home.loop.submit { home.withValue { $0.wasReset(request.id, generation: request.generation) } }
            }
            // Its loop has let the carrier go, or the stream: what the client has not moved already, it asks for.
            relay.onFailure = { error in
                if near.failure != nil, !carrier.wasResetByPeer { carrier.letGo(error) }
            }
            relay.start()
        }
    }

    /// The other side has reset a stream whose carrier another loop has.
    private func wasReset(_ id: UInt64, generation: UInt64) {
        guard let stream = held[id]?.stream, stream.state.generation == generation else { return }
        stream.lose(StreamError(.reset, "the other side reset the stream"))
    }

    // MARK: What streams tell

    /// Without a carrier: it waits for one, for so long.
    func detached(_ stream: ResumableStream) {
        guard waiting[ObjectIdentifier(stream)] == nil else { return }
        let peer = stream.peer?.description ?? ""
        guard directory.detach(peer) else {
            let error = StreamError(.limit, "too many streams of \(peer) wait to be resumed")
            report("too many streams wait to be resumed", of: stream, error)
            return stream.lose(error)
        }
        waiting[ObjectIdentifier(stream)] = (stream, loop.now)
        wind()
    }

    func attached(_ stream: ResumableStream) {
        guard waiting.removeValue(forKey: ObjectIdentifier(stream)) != nil else { return }
        directory.attach(stream.peer?.description ?? "")
    }

    func forget(_ stream: ResumableStream) {
        attached(stream)
        unwatch(stream)
    }

    func report(_ kind: String, of stream: ResumableStream, _ error: StreamError) {
        log.log(.warning, kind, of: stream.peer?.description ?? "a peer", ["reason": "\(error)"])
    }

    /// An acknowledgement is sent by and by.
    func owe(_ stream: ResumableStream) {
        guard !stream.isOwing else { return }
        stream.isOwing = true
        owing.append(stream)
        wind()
    }

    // MARK: Memory

    /// Its memory is refused: it is asked again whether it has some.
    func starve(_ stream: ResumableStream) {
        guard !stream.isStarved else { return }
        stream.isStarved = true
        starved.append(stream)
        wind()
    }

    /// It has bytes that are not acknowledged.
    func watch(_ stream: ResumableStream) {
        guard stream.watchIndex < 0, !stream.isOver else { return }
        stream.watchIndex = watched.count
        watched.append(stream)
        if watchTimer?.isScheduled == false { watchTimer?.schedule(after: max(Self.pause, timeout / 4)) }
    }

    private func unwatch(_ stream: ResumableStream) {
        let index = stream.watchIndex
        guard index >= 0 else { return }
        stream.watchIndex = -1
        let last = watched.removeLast()
        guard last !== stream else { return }
        watched[index] = last
        last.watchIndex = index
    }

    /// Of a peer whose share of the memory is used up, streams that do not move lose their carrier: where the peer does
    /// not come back for them, their time ends, and the memory is free. A reader that pauses may take as long as it
    /// likes while nobody needs the memory, and its stream goes on over another carrier where somebody does.
    private func look() {
        let now = loop.now
        for stream in Array(watched) where stream.watchIndex >= 0 {
            guard !stream.kept.isEmpty else {
                unwatch(stream)
                continue
            }
            let time = stream.standstill.time(of: stream.state, at: now)
            guard time >= timeout.nanoseconds, directory.isFull(for: stream.peer) else { continue }
            stream.standsStill(for: timeout)
        }
        if !watched.isEmpty, watchTimer?.isScheduled == false {
            watchTimer?.schedule(after: max(Self.pause, timeout / 4))
        }
    }

    // MARK: Time

    private func wind() {
        if timer?.isScheduled == false { timer?.schedule(after: Self.pause) }
    }

    private func tick() {
        let streams = owing
        owing = []
        for stream in streams {
            stream.isOwing = false
            stream.acknowledgeNow()
        }
        let hungry = starved
        starved = []
        for stream in hungry where !stream.isOver {
            stream.isStarved = false
            // One peer's share may be used up while another's is not.
            if stream.roomToKeep > 0 { stream.wakeWriters() } else { starve(stream) }
        }
        let now = loop.now
        let late = waiting.values.filter { now &- $0.since >= timeout.nanoseconds }
        for (stream, _) in late {
            stream.lose(
                StreamError(.reset, "\(stream.lastFailure ?? "the path was lost"), and nothing else for \(timeout)")
            )
        }
        if !starved.isEmpty || !waiting.isEmpty || !owing.isEmpty { wind() }
    }
}

extension Resumptions: ResumptionOwner {
    func resumableDetached(_ stream: ResumableStream, _ reason: StreamError) {}

    func resumableEnded(_ stream: ResumableStream) { held[stream.id] = nil }
}
