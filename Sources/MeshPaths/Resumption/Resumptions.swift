package import H2Transport
package import Logging
import MeshIdentity
package import MeshPolicy
import Platform
package import Streams

/// The resumable streams of one event loop: those that peers have opened, who may come back for them, and what is to be
/// done for all of them by and by. Confined to its loop.
package final class Resumptions {
    /// Why a stream is not resumed.
    package enum Refusal: Error, Hashable, Sendable {
        /// There is none that the peer might have; which of the reasons is for this side's log.
        case unknown(String)
        /// The token was used, or a later one.
        case replayed(String)
        /// The position cannot be.
        case impossible(String)
        /// Policy of the stream's own event loop, which may have changed on the way there.
        case denied(String)

        package var rejection: ConnectRejection {
            switch self {
            case .unknown: Self.rejection(404, "there is no such stream to resume")
            case .replayed: Self.rejection(409, "the token was used")
            case .impossible: Self.rejection(400, "the stream cannot go on from there")
            case .denied: .denied("policy")
            }
        }

        private static func rejection(_ status: Int, _ details: String) -> ConnectRejection {
            ConnectRejection(status: status, reason: ProxyStatus(error: "http_request_error", details: details))
        }

        package var reason: String {
            switch self {
            case .unknown(let reason), .replayed(let reason), .impossible(let reason), .denied(let reason): reason
            }
        }
    }

    package let loop: EventLoop
    package let directory: ResumptionDirectory
    private let number: UInt8
    private let log: PeerLog
    /// For how long a stream waits for a carrier.
    package var timeout: Duration
    /// What holds now; nil: nothing is asked.
    package var planner: StreamPlanner?
    /// Streams that peers have opened, by their numbers.
    private var held: [UInt64: ResumableStream] = [:]
    private var lastID: UInt64 = 0
    /// Those of ``nextRandomByte`` and behind it were not used.
    private var randomBytes: [UInt8] = []
    private var nextRandomByte = 0
    /// Of the peer that had a stream last: it may have the next one.
    private var lastShare: ResumptionDirectory.Share?
    private var owing: ContiguousArray<ResumableStream> = []
    /// Those whose acknowledgements wait for other frames: not for long, where somebody may wait for them.
    private var waitingForFrames: ContiguousArray<ResumableStream> = []
    private var waitingAtEnd: ContiguousArray<ResumableStream> = []
    private var frameTimer: LoopTimer?
    private var endTimer: LoopTimer?
    private var starved: ContiguousArray<ResumableStream> = []
    /// Without a carrier, since when.
    private var waiting: [ObjectIdentifier: (stream: ResumableStream, since: UInt64)] = [:]
    private var timer: LoopTimer?
    /// Those with bytes that are not acknowledged.
    private var watched: ContiguousArray<ResumableStream> = []
    private var watchTimer: LoopTimer?

    /// How long an acknowledgement waits for bytes that it can go with.
    private static let pause: Duration = .milliseconds(100)
    /// And how long one that is due, for frames of other streams: a record of its own costs both sides more than all
    /// else that it needs.
    private static let framePause: Duration = .milliseconds(4)
    /// And that of the other side's end, the last word on a stream.
    private static let endPause: Duration = .milliseconds(25)
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
        frameTimer = LoopTimer(on: loop) { [weak self] in
            guard let self else { return }
            Self.send(&waitingForFrames)
        }
        endTimer = LoopTimer(on: loop) { [weak self] in
            guard let self else { return }
            Self.send(&waitingAtEnd)
        }
    }

    deinit { if let lastShare { directory.giveBack(lastShare) } }

    /// Streams that peers open are found by the other loops from now on.
    package func serve() { directory.enter(self, number: number) }

    /// Nobody comes back for them.
    package func shutDown() {
        directory.leave(number)
        timer?.cancel()
        watchTimer?.cancel()
        frameTimer?.cancel()
        endTimer?.cancel()
        for (stream, _) in Array(waiting.values) { stream.lose(StreamError(.reset, "the node has stopped")) }
        // Each of them holds this, and no timer comes to let it go.
        (owing, starved) = ([], [])
        (waitingForFrames, waitingAtEnd) = ([], [])
    }

    // MARK: Streams that peers open

    /// Whether the client of `pending` can resume what it asks for.
    package static func isOffered(_ pending: PendingConnect) -> Bool {
        pending.peer != nil && pending.request.headers[ResumptionField.name] == ResumptionField.offer
    }

    /// Has a request say that this side can resume what it asks for.
    package static func offer(in headers: inout HeaderFields) {
        headers.append(ResumptionField.name, ResumptionField.offer)
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
        headers: HeaderFields = [:]
    ) -> ByteStream? {
        guard pending.peer != nil, held.count < Self.limit else { return pending.accept(headers: headers) }
        let ticket = newTicket()
        var headers = headers
        headers.append(ResumptionField.name, ticket.field)
        guard let carrier = pending.accept(headers: headers) else { return nil }
        let stream = ResumableStream(
            over: carrier,
            to: pending.destination,
            isClient: false,
            of: self,
            in: self
        )
        stream.ticket = ticket
        held[ticket.id] = stream
        return stream
    }

    private func newTicket() -> ResumptionTicket {
        lastID += 1
        if nextRandomByte == randomBytes.count {
            randomBytes = Digest.randomBytes(64 * ResumptionTicket.secretSize)
            nextRandomByte = 0
        }
        let start = nextRandomByte
        nextRandomByte += ResumptionTicket.secretSize
        return randomBytes.withUnsafeBytes { bytes in
            ResumptionTicket(
                id: UInt64(number) << 56 | lastID & (1 << 56 - 1),
                secret: .init(
                    high: bytes.loadUnaligned(fromByteOffset: start, as: UInt64.self),
                    low: bytes.loadUnaligned(fromByteOffset: start + 8, as: UInt64.self)
                )
            )
        }
    }

    /// To be given back to the directory.
    func share(of peer: SPIFFEID?) -> ResumptionDirectory.Share {
        if let lastShare, lastShare.isThat(of: peer) { return directory.again(lastShare) }
        let share = directory.share(of: peer)
        if let lastShare { directory.giveBack(lastShare) }
        lastShare = directory.again(share)
        return share
    }

    /// Has a stream go on over another carrier, where `peer` proves that it may.
    ///
    /// - Parameters:
    ///   - asked: What policy has allowed.
    ///   - carrier: Made only when everything is right; what it makes belongs to the stream.
    /// - Returns: Where the client goes on.
    private func resume(
        _ request: ResumptionRequest,
        of peer: SPIFFEID?,
        _ asked: StreamRequest,
        _ carrier: (_ position: UInt64) -> ByteStream?
    ) throws(Refusal) {
        guard let stream = held[request.id], let ticket = stream.ticket else {
            throw .unknown("there is no stream \(request.id)")
        }
        // Whoever is somebody else learns nothing, not even that there is a stream.
        guard let peer, stream.peer == peer, request.isProved(by: ticket) else {
            throw .unknown(stream.peer == peer ? "the token is wrong" : "the stream is another identity's")
        }
        guard stream.destination == asked.destination else {
            throw .unknown("the stream leads to \(stream.destination)")
        }
        do throws(ResumptionViolation) {
            try stream.state.check(generation: request.generation, position: request.position)
        } catch {
            throw request.generation <= stream.state.generation
                ? .replayed("\(error)") : .impossible("\(error)")
        }
        guard let carrier = carrier(stream.state.position) else { return }
        do throws(ResumptionViolation) {
            stream.movedBy = asked
            let reason = stream.lastFailure ?? "the client has moved it"
            try stream.attach(
                carrier,
                generation: request.generation,
                position: request.position,
                because: reason
            )
        } catch {
            carrier.reset(StreamError(.protocolViolation, "\(error)"))
        }
    }

    /// Answers a request to resume. The stream may be another loop's: then its bytes go over a bridge.
    ///
    /// - Parameter asked: What policy has allowed, and is asked about from now on.
    package func resume(_ pending: PendingConnect, _ field: String, _ asked: StreamRequest) {
        let asked = asked.withoutHops
        guard let request = ResumptionRequest(field) else {
            return answer(pending, .impossible("the field makes no sense"))
        }
        guard let home = directory.loop(of: request.id) else {
            return answer(pending, .unknown("there is no stream \(request.id)"))
        }
        guard home.loop !== loop else {
            do throws(Refusal) {
                try resume(request, of: pending.peer, asked) { position in
                    pending.accept(headers: [ResumptionField.name: Hexadecimal.text(position)])
                }
            } catch {
                answer(pending, error)
            }
            return
        }
        bridge(pending, request, home, asked)
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
        _ asked: StreamRequest
    ) {
        let near = LoopBridge(on: loop, to: pending.destination.description)
        let far = near.makeFarEnd(on: home.loop)
        let peer = pending.peer
        let own = LoopBound((resumptions: self, pending: pending, near: near), on: loop)
        let isRunning = home.loop.submitIfRunning {
            let result: Result<UInt64, Refusal> = home.withValue { home in
                home.resumeBridged(request, of: peer, asked, far)
            }
            own.loop.submit {
                own.withValue { $0.resumptions.bridged(result, $0.pending, $0.near) }
            }
        }
        guard !isRunning else { return }
        near.reset(StreamError(.closed, "its event loop has shut down"))
        answer(pending, .unknown("its loop has shut down"))
    }

    private func resumeBridged(
        _ request: ResumptionRequest,
        of peer: SPIFFEID?,
        _ asked: StreamRequest,
        _ far: LoopBound<LoopBridge>
    ) -> Result<UInt64, Refusal> {
        var result = Result<UInt64, Refusal>.failure(.impossible("there is no bridge"))
        // What was asked about on the other loop may have changed since, and this one has judged its streams by that
        // already: by where they were.
        if case .refused(let refusal) = planner?.plan(asked.at(WallClock.system.seconds)).outcome {
            return .failure(.denied(refusal.description))
        }
        do throws(Refusal) {
            try resume(request, of: peer, asked) { position in
                result = .success(position)
                return far.withValue { $0 }
            }
        } catch {
            result = .failure(error)
        }
        return result
    }

    private func bridged(_ result: Result<UInt64, Refusal>, _ pending: PendingConnect, _ near: LoopBridge) {
        switch result {
        case .failure(let refusal):
            near.reset(StreamError(.closed, "the stream is not resumed"))
            answer(pending, refusal)
        case .success(let position):
            guard let carrier = pending.accept(headers: [ResumptionField.name: Hexadecimal.text(position)]) else {
                near.reset(StreamError(.closed, "the client gave up"))
                return
            }
            near.join(carrier)
        }
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

    /// An acknowledgement goes with what else its connection sends, and by itself where that is nothing.
    ///
    /// - Parameter afterLong: It is the last word.
    func hurryLater(_ stream: ResumableStream, afterLong isLast: Bool) {
        if isLast {
            waitingAtEnd.append(stream)
            if endTimer?.isScheduled == false { endTimer?.schedule(after: Self.endPause) }
            return
        }
        guard !stream.isWaitingForFrames else { return }
        stream.isWaitingForFrames = true
        waitingForFrames.append(stream)
        if frameTimer?.isScheduled == false { frameTimer?.schedule(after: Self.framePause) }
    }

    /// Nobody is added from inside.
    private static func send(_ waiting: inout ContiguousArray<ResumableStream>) {
        var streams: ContiguousArray<ResumableStream> = []
        swap(&streams, &waiting)
        for stream in streams {
            stream.isWaitingForFrames = false
            stream.sendNow()
        }
        guard streams.count <= 64 else { return }
        streams.removeAll(keepingCapacity: true)
        swap(&streams, &waiting)
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
            guard time >= timeout.nanoseconds, directory.isFull(stream.share) else { continue }
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
            if stream.ownRoom > 0 { stream.wakeWriters() } else { starve(stream) }
        }
        let now = loop.now
        let late = waiting.values.filter { now &- $0.since >= timeout.nanoseconds }
        for (stream, _) in late { stream.giveUp(after: timeout) }
        if !starved.isEmpty || !waiting.isEmpty || !owing.isEmpty { wind() }
    }
}

extension Resumptions: ResumptionOwner {
    func resumableDetached(_ stream: ResumableStream, _ reason: StreamError) {}

    func resumableEnded(_ stream: ResumableStream) { if let ticket = stream.ticket { held[ticket.id] = nil } }
}
