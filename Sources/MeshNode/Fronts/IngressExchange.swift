import CLinux
import H2Transport
import HTTP1
import Logging
import MeshPolicy
import Platform
import Streams

/// One request of a client of HTTP/2 and its answer. To the relay it is the far end of the client's stream: what is
/// written is the content of the request, what is read that of the answer. How a server gets and says them is for
/// subclasses.
///
/// ```
///   opening ─→ head ─→ body ─→ ended          what the client gets, in the order of time
///      └────────┴──────→ page ─→ ended        in the place of an answer that has not begun
/// ```
class IngressExchange: ByteStream, StreamObserver, TurnTask {
    enum Phase {
        case opening
        /// Waits for the head of the answer.
        case head
        case body
        case page
        case ended
        case over
    }

    let front: H2Stream
    let passage: IngressGate.Passage
    let plan: StreamPlan
    /// Of the client.
    let connection: IngressHTTP2Connection
    var phase = Phase.opening
    /// What carries the request, and is recorded of it.
    var ticket: StreamTicket?
    var cancel: StreamOpener.Cancellation?
    /// The client has said everything.
    private(set) var isRequestOver = false
    /// When the server had it.
    private(set) var sentAt: UInt64 = 0
    /// Content that has come from the client.
    private(set) var received: UInt64 = 0
    private var page: ArraySlice<UInt8> = []
    private var readerWaits = true
    private var writerWaits = false
    private var isJoined = false
    /// What had come at the last look, and since when.
    private var looked: (received: UInt64, at: UInt64)

    init(_ front: H2Stream, _ passage: IngressGate.Passage, of connection: IngressHTTP2Connection) {
        self.front = front
        self.passage = passage
        self.connection = connection
        plan = connection.carrier.opener.plan(connection.gate.streamRequest(for: passage))
        looked = (0, front.loop.now)
        super.init(loop: front.loop)
    }

    final var carrier: StreamCarrier { connection.carrier }
    final var destination: Authority { passage.route.to }
    final var isHead: Bool { passage.method == "HEAD" }

    override var peerDescription: String { "\(destination)" }

    // MARK: For subclasses

    /// Opens what carries the request.
    func open() { fatalError("\(type(of: self)) does not override open()") }

    /// - Returns: What was taken; ``blockWriter()`` where nothing is.
    func send(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult { fatalError("no server") }

    /// Nothing more of the request follows.
    func sendEnd() { fatalError("no server") }

    /// Content of the answer. Runs inside of nghttp2: nothing but reads.
    func receive(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult { fatalError("no server") }

    /// Lets the server go; nil: request and answer are whole.
    func dismiss(_ reason: StreamError?) {}

    // MARK: The request

    final func start() {
        front.observer = self
        open()
    }

    /// The way to the server is there.
    final func join(_ opened: StreamOpener.Opened) {
        phase = .head
        isJoined = true
        ticket = opened.ticket
        let facing = StreamOpener.Opened(
            stream: self,
            path: opened.path,
            dialled: opened.dialled,
            ticket: opened.ticket,
            carriedBy: opened.lowest
        )
        carrier.join(front, certificate: connection.gate.facts.certificate, facing, plan.request)
    }

    final override func write(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        switch phase {
        case .opening: return blockWriter()
        case .head, .body:
            let result = send(vectors)
            if case .bytes(let count) = result { received &+= UInt64(count) }
            return result
        // The answer is there: the rest of the request has no reader.
        case .page, .ended: return .bytes(vectors.reduce(0) { $0 + $1.iov_len })
        case .over: return refuseWrite()
        }
    }

    final override func finish() {
        guard !isRequestOver else { return }
        isRequestOver = true
        if phase == .head || phase == .body { sendEnd() }
    }

    final func requestIsSent() { if sentAt == 0 { sentAt = max(1, loop.now) } }

    final func blockWriter() -> WriteResult {
        writerWaits = true
        return .wouldBlock
    }

    final func wakeWriter() {
        guard writerWaits else { return }
        writerWaits = false
        observer?.streamWritable(self)
    }

    // MARK: The answer

    /// The head of the answer.
    ///
    /// - Parameter ends: That is all of it.
    final func answer(_ status: Int, _ fields: HeaderFields, ends: Bool) {
        guard front.respond(status, fields, ends: ends) else {
            return failed(StreamError(.protocolViolation, "the server's answer has a field that HTTP/2 does not allow"))
        }
        phase = ends ? .ended : .body
        if ends { answerIsRead() } else { wakeReader() }
    }

    final override func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        switch phase {
        case .opening, .head: return blockReader()
        case .body:
            let result = receive(into: buffer)
            switch result {
            case .wouldBlock: readerWaits = true
            case .end: answerIsRead()
            case .bytes, .failed: break
            }
            return result
        case .page:
            let count = min(page.count, buffer.count)
            page.prefix(count).withUnsafeBytes { buffer.copyMemory(from: $0) }
            page = page.dropFirst(count)
            if page.isEmpty { phase = .ended }
            return .bytes(count)
        case .ended:
            answerIsRead()
            return .end
        case .over: return refuseRead()
        }
    }

    private func blockReader() -> ReadResult {
        readerWaits = true
        return .wouldBlock
    }

    final func wakeReader() {
        guard readerWaits else { return }
        readerWaits = false
        observer?.streamReadable(self)
    }

    /// A client that goes on with a request that is answered is told to stop (RFC 9113 §8.1), once it has the answer.
    private func answerIsRead() {
        phase = .ended
        // Behind what the client's stream has to tell its relay of the end.
        if !isRequestOver { loop.nextTurn(self) }
    }

    final func runTurn() {
        guard phase == .ended, !isRequestOver else { return }
        isRequestOver = true
        fail(StreamError(.closed, "the server has answered"))
        observer?.streamFailed(self)
    }

    // MARK: Failures

    /// There will be no answer, or not the rest of one. Not from inside of ``read(into:)`` or ``write(_:)``.
    final func failed(_ error: StreamError) {
        switch phase {
        case .opening, .head: answerInstead(.failed(error, isLocal: false), error)
        case .body:
            fail(error)
            observer?.streamFailed(self)
        case .page, .ended, .over: break
        }
    }

    /// The server has reset the request: so the client learns it.
    final func resetClient(_ error: StreamError) {
        guard phase != .over else { return }
        fail(error)
        observer?.streamFailed(self)
    }

    /// A page in the place of the server's answer.
    final func answerInstead(_ page: HTTPProxyPage, _ error: StreamError) {
        guard phase == .opening || phase == .head else { return }
        dismiss(error)
        guard isJoined else {
            over()
            return connection.answer(front, page)
        }
        ticket?.cut(error, sent: received, status: page.status)
        let page = connection.gate.finished(page)
        self.page = isHead ? [] : Array(page.text.utf8)[...]
        let isEmpty = self.page.isEmpty
        phase = isEmpty ? .ended : .page
        _ = front.respond(page.status, HTTP2Heads.fields(of: page), ends: isEmpty)
        if isEmpty { answerIsRead() }
        wakeReader()
        wakeWriter()
    }

    // MARK: StreamObserver: the client's stream, until it is joined, and what carries the request

    func streamReadable(_ stream: ByteStream) {}
    func streamWritable(_ stream: ByteStream) {}

    func streamFailed(_ stream: ByteStream) {
        guard stream === front, !isJoined else { return }
        let reason = front.failure ?? .closed(front)
        cancel?()
        cancel = nil
        dismiss(reason)
        front.reset(reason)
        over()
    }

    // MARK: Time

    /// Who is waited for, and for how long.
    final func look(at now: UInt64) {
        let times = connection.settings.timeouts
        guard phase == .head else { return }
        if isRequestOver {
            guard let upstream = times.upstream, sentAt > 0, now &- sentAt >= upstream.nanoseconds else { return }
            let error = StreamError(.timedOut, "\(destination) has not answered within \(upstream)")
            carrier.report(error, to: destination)
            return answerInstead(.noResponse, error)
        }
        // A stream of gRPC may pause for as long as it likes.
        guard !passage.route.h2, !front.hasUnread, looked.received == received else {
            looked = (received, now)
            return
        }
        guard now &- looked.at >= times.idle.nanoseconds else { return }
        let error = StreamError(.timedOut, "the client of HTTP/2 does not send the content of its request")
        answerInstead(.bad(HTTPError(408, "the content of the request did not come in time")), error)
    }

    // MARK: The end

    final override func reset(_ reason: StreamError) {
        guard phase != .over else { return }
        cancel?()
        cancel = nil
        dismiss(reason)
        over()
    }

    final override func close() {
        guard phase != .over else { return }
        let isWhole = phase == .ended && (failure == nil || failure?.code == .closed)
        dismiss(isWhole ? nil : StreamError(.closed, "the client has left"))
        over()
    }

    private func over() {
        phase = .over
        page = []
        connection.ended(self)
    }
}
