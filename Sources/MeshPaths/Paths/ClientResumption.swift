import H2Transport
import MeshIdentity
import MeshPolicy
import Platform
import Streams

/// A stream that this side has opened, and how it goes on when its path dies: asks for it again, on whichever path is
/// in use then, until the time for that is over. Confined to its loop.
///
/// ```
///   attached ── carrier lost, a better path ──→ asking ── 200 ──→ attached
///                                                │  ↑ another path, a pause
///                                                └── refused: lost ──→ reset
/// ```
final class ClientResumption: ResumptionOwner {
    private(set) var stream: ResumableStream!
    private let paths: PeerPaths
    /// The server's word.
    private let ticket: String
    private let request: PeerPaths.Request
    /// Where the stream is.
    private(set) var home: ResumptionPlace
    /// The connection of the carrier was found not to answer, where that connection does not say so itself.
    private var carrierDoubt = CarrierDoubt()
    private var generation: UInt64 = 0
    /// What the last request has said.
    private var asked: UInt64 = 0
    private var isAsking = false
    private var reason = ""
    private var failures = 0
    private var retry: LoopTimer?
    /// Among those of its peer; -1: it is none of them.
    fileprivate var place = -1

    private static let firstPause: Duration = .milliseconds(20)
    private static let longestPause: Duration = .seconds(1)

    init(
        _ ticket: String,
        over carrier: any ResumableCarrier,
        at place: ResumptionPlace,
        of request: PeerPaths.Request,
        _ paths: PeerPaths,
        path: PathID
    ) {
        self.ticket = ticket
        self.home = place
        self.request = request
        self.paths = paths
        stream = ResumableStream(
            over: carrier,
            to: request.authority,
            isClient: true,
            of: self,
            in: paths.resumptions
        )
        stream.path = path
    }

    /// For one request: each has a generation and a token of its own, since nobody knows what became of the one before.
    ///
    /// nil: what the server has said is no ticket.
    func nextHeaders() -> HeaderFields? {
        guard let ticket = ResumptionTicket(ticket) else { return nil }
        generation += 1
        asked = stream.ask()
        var headers = request.headers
        headers[ResumptionField.name] =
            ResumptionRequest(ticket, generation: generation, position: asked).field
        return headers
    }

    /// What carries it does not answer.
    var isInDoubt: Bool { carrierDoubt.holds(heard: stream.heard) || stream.transportConnection?.doubt != nil }

    /// Streams over that connection go on where somebody answers.
    func doubt(because reason: String) {
        carrierDoubt.begin(heard: stream.heard)
        ask(because: reason)
    }

    /// Asks for the stream, unless that is under way.
    ///
    /// - Parameter done: Told whether the stream goes on over another carrier; not called where that is under way.
    /// - Returns: false: it is under way, or the stream is over.
    @discardableResult
    func ask(because reason: String, then done: ((Bool) -> Void)? = nil) -> Bool {
        guard !isAsking, !stream.isOver else { return false }
        self.reason = reason
        isAsking = true
        retry?.cancel()
        let asking = PeerPaths.Request(
            authority: request.authority,
            headers: [:],
            permits: request.permits
        ) { [self] result in
            isAsking = false
            let before = stream.history.count
            answered(result)
            let hasMoved = stream.history.count > before
            done?(hasMoved)
            // The peer may have let go of it meanwhile, when the stream was still elsewhere.
            if hasMoved, paths.isOnLeftConnection(stream) { paths.moveStreamsLeftBehind() }
        }
        asking.resumption = self
        paths.dispatch(asking)
        return true
    }

    private func answered(_ result: Result<OpenedStream, StreamError>) {
        switch result {
        case .success(let opened): attach(opened)
        case .failure(let error): failed(error)
        }
    }

    private func attach(_ opened: OpenedStream) {
        guard !stream.isOver, let carrier = opened.stream.asCarrier else {
            return opened.stream.reset(StreamError(.closed, "the stream is over"))
        }
        // An endpoint may have several identities, and the bytes of one are nothing for another.
        guard carrier.provenPeer == stream.peer else {
            carrier.letGo(StreamError(.closed, "the stream is another identity's"))
            let whose = stream.peer?.description ?? "a peer without a certificate"
            return failed(StreamError(.unreachable, "\(carrier.peerDescription) is not \(whose), whose stream it is"))
        }
        // What holds may have changed while the answer was waited for, and has been judged by where the stream was.
        if let refusal = paths.refusal(of: request, over: opened.path) {
            carrier.letGo(refusal)
            return failed(refusal)
        }
        guard let field = carrier.answer?.headers[ResumptionField.name],
            let position = Hexadecimal.number(Substring(field))
        else {
            carrier.letGo(StreamError(.closed, "the answer does not say where the stream goes on"))
            return failed(StreamError(.badRequest, "\(carrier.peerDescription) resumes no streams"))
        }
        do throws(ResumptionViolation) {
            try stream.attach(
                carrier,
                generation: generation,
                position: position,
                asked: asked,
                over: opened.path,
                because: reason
            )
            failures = 0
            carrierDoubt.end()
            self.home.certificate = carrier.peerCertificate ?? self.home.certificate
            if carrier.peerProcess != 0 { self.home.process = carrier.peerProcess }
        } catch {
            carrier.letGo(StreamError(.protocolViolation, "\(error)"))
            failed(StreamError(.protocolViolation, "\(carrier.peerDescription) \(error)"))
        }
    }

    private func failed(_ error: StreamError) {
        guard !stream.isOver else { return }
        stream.askedInVain(error)
        guard !stream.isAttached else {
            // It goes on over the carrier it has. Where that does not answer, who has said nothing yet is asked again.
            let isAnswered = error.code == .badRequest || error.code == .authentication
            if isInDoubt, !isAnswered { askLater() }
            return
        }
        switch error.code {
        case .badRequest where asked == stream.state.position:
            return stream.lose(
                StreamError(.reset, "\(reason), and the far side has the stream no more: \(error.message)")
            )
        case .authentication: return stream.lose(error)
        default: break
        }
        askLater()
    }

    private func askLater() {
        failures += 1
        let pause = min(Self.longestPause, Self.firstPause * (1 << min(failures, 8)))
        let timer = retry ?? LoopTimer(on: stream.loop) { [weak self] in self?.askAgain() }
        retry = timer
        timer.schedule(after: pause)
    }

    private func askAgain() {
        guard !stream.isAttached || isInDoubt else { return }
        ask(because: reason)
    }

    /// The network has changed: no pause is kept.
    func hurry() {
        guard retry?.isScheduled == true else { return }
        failures = 0
        retry?.cancel()
        askAgain()
    }

    /// The stream is reset, on both sides.
    func end(_ error: StreamError) { stream.lose(error) }

    // MARK: ResumptionOwner

    func resumableDetached(_ stream: ResumableStream, _ reason: StreamError) {
        self.reason = reason.message
        // Not while a connection tells all of its streams that it is gone.
        stream.loop.later { [weak self] in
            guard let self, !self.stream.isAttached else { return }
            ask(because: reason.message)
        }
    }

    func resumableEnded(_ stream: ResumableStream) {
        retry?.cancel()
        guard place >= 0 else { return }
        let last = paths.resumable.removeLast()
        if last !== self {
            paths.resumable[place] = last
            last.place = place
        }
        place = -1
    }
}

extension PeerPaths {
    /// Streams that nothing carries now, and for how long at most they wait for something that does.
    package var waitingStreams: (count: Int, atMost: Duration) {
        (resumable.count { !$0.stream.isAttached }, resumptions.timeout)
    }

    /// A stream that can go on elsewhere, where the far side has said so; nil: it cannot.
    func resumable(_ stream: ByteStream, over path: PathID, _ request: Request) -> ByteStream? {
        guard request.resumption == nil, let carrier = stream.asCarrier,
            let field = carrier.answer?.headers[ResumptionField.name], ResumptionTicket.isTicket(field)
        else { return nil }
        let place = ResumptionPlace(
            server: usedSource(of: path)?.server(of: (carrier as? H2Stream)?.transport),
            identity: carrier.provenPeer,
            certificate: carrier.peerCertificate,
            process: carrier.peerProcess
        )
        let resumption = ClientResumption(field, over: carrier, at: place, of: request, self, path: path)
        resumption.place = resumable.count
        resumable.append(resumption)
        return resumption.stream
    }

    /// Another path carries new streams from now on, or the same one does again: those that can move along do.
    func moveStreams(to path: PathID, because reason: String) {
        guard path.transport.resumesStreams else { return }
        for resumption in Array(resumable) {
            let stream = resumption.stream!
            if stream.isAttached, stream.path == path, !resumption.isInDoubt { continue }
            resumption.ask(because: reason)
        }
        moveStreamsLeftBehind()
    }

    /// A connection that the peer holds, on whichever event loop, does not answer.
    func moveStreams(fromHeld id: UInt64, because reason: String) {
        for resumption in Array(resumable) {
            guard let carrier = resumption.stream.carrier, held?.id(of: carrier) == id else { continue }
            resumption.doubt(because: reason)
        }
    }

    /// Connections take no more streams, because of their age, a certificate that has ended, or what the peer has in
    /// mind: streams that can go on over their successors do, so that none depends for weeks on what was proved long
    /// ago. They lose nothing where that fails. One of each connection goes first: where another process has taken the
    /// peer's place, which knows none of them, the others need not ask.
    func moveStreamsLeftBehind() {
        // Not while a connection tells of it.
        loop.later { [weak self] in
            guard let self else { return }
            let reason = "the connection takes no more streams"
            var asked: Set<AnyHashable> = []
            for first in Array(resumable) {
                guard let connection = leftBehind(first.stream), !asked.contains(connection) else { continue }
                // One that is asked for already speaks for nobody else.
                let isFirst = first.ask(because: reason) { [weak self] hasMoved in
                    guard hasMoved, let self else { return }
                    for resumption in Array(resumable) where leftBehind(resumption.stream) == connection {
                        resumption.ask(because: reason)
                    }
                }
                if isFirst { asked.insert(connection) }
            }
        }
    }

    /// Of a connection that the peer holds.
    func isOnLeftConnection(_ stream: ResumableStream) -> Bool {
        stream.carrier.flatMap { held?.leftConnection(of: $0) } != nil
    }

    /// The connection that carries `stream`, where that takes no more of them; nil: it does, or there is none.
    private func leftBehind(_ stream: ResumableStream) -> AnyHashable? {
        guard let carrier = stream.carrier else { return nil }
        if let connection = (carrier as? H2Stream)?.transport, connection.isDraining {
            return ObjectIdentifier(connection)
        }
        return held?.leftConnection(of: carrier)
    }

    /// A connection does not answer: its streams go on where somebody does, and stay where nobody does.
    func moveStreams(from connection: H2Connection, because reason: String) {
        for resumption in Array(resumable) where resumption.stream.transportConnection === connection {
            resumption.ask(because: reason)
        }
    }
}
