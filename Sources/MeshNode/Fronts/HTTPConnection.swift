import H2Transport
import HTTP1
import Logging
import MeshIdentity
import MeshPolicy
import Platform
import Streams

/// One client that speaks HTTP/1.1: reads its requests one after the other, carries each to a server and the response
/// back, and keeps both connections for the next one where that is safe. What becomes of a request is for the front to
/// say that subclasses this. Confined to its loop; keeps itself alive until it is done.
///
/// ```
///   head ─→ handle(_:) ─→ exchange, on a new stream or that of before ─┐
///    ↑                 ─→ a page of this node's own ───────────────────┤
///    └────────────────────────── next request ─────────────────────────┘
/// ```
class HTTPConnection: StreamObserver, TurnTask, DrainingConnection {
    enum State {
        /// Waits for a request, or for the rest of one.
        case head
        /// Something is asked about, or the stream of a request opened.
        case waiting
        case exchange
        /// What was written last goes out; nothing more is read.
        case closing
        /// Everything is written; what the client still sends is dropped, so that it reads that.
        case lingering
        case over
    }

    /// Where exchanges go.
    struct Server {
        let stream: HTTPServerStream
        let opened: StreamOpener.Opened
        /// By which the stream was opened.
        let plan: StreamPlan
        /// What the stream is used for now.
        let use: StreamUse

        /// What is asked there goes on as HTTP/2.
        let isHTTP2: Bool

        var authority: Authority { plan.request.destination }
    }

    let client: ByteStream
    let carrier: StreamCarrier
    let source: IPAddress
    let timeouts: HTTPTimeouts
    let limits: HTTPLimits
    var state = State.head
    var exchange: HTTPExchange?
    /// Where the exchange goes on, or the next one to the same server.
    var server: Server?
    var isReused = false
    /// An upgraded server has, and the client is to be told.
    var serverHasEnded = false
    var clock = HTTPExchangeClock()
    /// Ends what is being opened for the exchange.
    var cancel: StreamOpener.Cancellation?

    /// What was read, of which the first `consumed` bytes are done with.
    var input: [UInt8] = []
    var consumed = 0
    private var output: [UInt8] = []
    private var written = 0
    private var parser: HTTPHeadParser
    private(set) var timer: LoopTimer?
    private var newcomer: Newcomers.Key?
    private var retained = Retained<HTTPConnection>()
    private var dropped = 0

    static let piece = 4096
    /// For a client that goes on with a request that is answered.
    private static let lingering = (time: Duration.seconds(2), bytes: 1 << 20)

    init(
        _ client: ByteStream,
        from source: IPAddress,
        _ carrier: StreamCarrier,
        timeouts: HTTPTimeouts = HTTPTimeouts(),
        limits: HTTPLimits = HTTPLimits()
    ) {
        self.client = client
        self.source = source
        self.carrier = carrier
        self.timeouts = timeouts
        self.limits = limits
        parser = HTTPHeadParser(limits: limits)
    }

    var loop: EventLoop { client.loop }
    var clientDescription: String { client.peerDescription }
    var isLive: Bool { retained.isHeld }

    // MARK: For the front

    /// A request is there, ``state`` is waiting: to be answered, or carried with ``carry(_:)``.
    func handle(_ head: HTTPRequestHead) { fatalError("\(type(of: self)) does not override handle(_:)") }

    /// What is asked for in the client's name.
    func streamRequest(to destination: Authority) -> StreamRequest {
        fatalError("\(type(of: self)) does not override streamRequest(to:)")
    }

    /// Whether the server of the request speaks HTTP/2.
    var opensHTTP2: Bool { false }

    /// What is there is no request of HTTP/1.1: whoever takes the connection over says so.
    func isOther(_ head: ArraySlice<UInt8>) -> Bool { false }

    /// Whether the client may read why something failed.
    var isLocal: Bool { false }

    /// Which certificate the client has shown: its streams are cut when that is revoked.
    var certificate: CertificateName? { nil }

    /// An exchange, if there was one, is over.
    func exchangeEnded() {}

    /// The connection is over, or somebody else's.
    func connectionEnded() {}

    func start() {
        retained.hold(self)
        client.observer = self
        let timer = LoopTimer(on: loop) { [weak self] in self?.timedOut() }
        self.timer = timer
        timer.schedule(after: timeouts.head)
        newcomer = carrier.admit(from: source) { [weak self] in self?.end(resetting: .crowdedOut) }
        carrier.live.connections[ObjectIdentifier(self)] = self
        readHead()
    }

    /// The client has said what it wants.
    func welcome() {
        if let newcomer { carrier.newcomers.remove(newcomer) }
        newcomer = nil
    }

    /// Nothing new is taken: a client without a request goes.
    func drain() {
        if state == .head, input.count == consumed { end(resetting: nil) }
    }

    // MARK: StreamObserver

    func streamReadable(_ stream: ByteStream) {
        switch state {
        case .head: readHead()
        case .exchange:
            guard wantsRequestBytes else { return watchClient() }
            if let server { server.stream.observer?.streamReadable(server.stream) }
        case .lingering: linger()
        case .waiting, .closing, .over: break
        }
    }

    func streamWritable(_ stream: ByteStream) {
        clock.clientHasRoom()
        guard flush(), output.isEmpty else { return }
        switch state {
        case .exchange:
            finishIfServerHas()
            goOn()
        case .closing: close()
        case .head, .waiting, .lingering, .over: break
        }
    }

    func streamFailed(_ stream: ByteStream) { end(resetting: stream.failure ?? .closed(stream)) }

    // MARK: Heads

    /// The next request, after an exchange or a page.
    func nextRequest() {
        dropExchange()
        state = .head
        parser = HTTPHeadParser(limits: limits)
        timer?.schedule(after: input.count > consumed ? timeouts.head : timeouts.idle)
        // Who sends a thousand requests at once must not have a thousand calls on the stack.
        loop.nextTurn(self)
    }

    func dropExchange() {
        guard exchange != nil else { return }
        exchange = nil
        exchangeEnded()
    }

    func runTurn() {
        switch state {
        case .head where carrier.isDraining && input.count == consumed: end(resetting: nil)
        case .head: readHead()
        case .exchange: goOn()
        case .waiting, .closing, .lingering, .over: break
        }
    }

    private func readHead() {
        while state == .head {
            do throws(HTTPError) {
                if let end = try parser.end(in: input, from: consumed) {
                    if isOther(input[consumed..<end]) { return }
                    let head = try parser.request(input[consumed..<end])
                    consumed = end
                    timer?.cancel()
                    state = .waiting
                    return handle(head)
                }
            } catch {
                carrier.peerLog.log(.info, "bad request", of: "\(source)", ["reason": "\(error)"])
                return answer(.bad(error), closes: true)
            }
            let isFirst = input.count == consumed
            switch readMore() {
            case .bytes: if isFirst { timer?.schedule(after: timeouts.head) }
            case .wouldBlock: return
            // In the middle of a head it is no request.
            case .end: return end(resetting: nil)
            case .failed: return end(resetting: client.failure ?? .closed(client))
            }
        }
    }

    /// Reads a piece into the input.
    func readMore() -> ReadResult {
        if consumed == input.count {
            input.removeAll(keepingCapacity: input.capacity <= 4 * Self.piece)
            consumed = 0
        } else if consumed >= Self.piece {
            input.removeSubrange(..<consumed)
            consumed = 0
        }
        return withUnsafeTemporaryAllocation(byteCount: Self.piece, alignment: 1) { buffer in
            let result = client.read(into: buffer)
            if case .bytes(let count) = result { input.append(contentsOf: buffer[..<count]) }
            return result
        }
    }

    // MARK: Output

    /// A page in the place of an exchange's response, which has not begun.
    func answerInstead(_ page: HTTPProxyPage) {
        guard let exchange else { return }
        let closes = !exchange.isRequestRead || exchange.closesClient
        let isUnread = !exchange.isRequestRead
        dropExchange()
        answer(page, to: exchange.request, closes: closes, discarding: isUnread)
    }

    /// Answers a request that no server gets.
    func answer(
        _ page: HTTPProxyPage,
        to head: HTTPRequestHead? = nil,
        closes: Bool = false,
        discarding: Bool? = nil
    ) {
        let isEmpty = head?.framing.isEmpty == true
        let keeps = !closes && head?.keepsAlive == true && isEmpty && !carrier.isDraining
        write(finished(page).response(to: head?.method ?? "GET", closes: !keeps))
        guard isLive else { return }
        if keeps, output.isEmpty { return nextRequest() }
        server?.stream.letGo()
        server = nil
        discards = discarding ?? (head == nil || !isEmpty)
        close()
    }

    /// What the front says with each answer.
    func finished(_ page: HTTPProxyPage) -> HTTPProxyPage { page }

    private var discards = false

    func write(_ bytes: [UInt8]) {
        if output.isEmpty { output = bytes } else { output += bytes }
        _ = flush()
    }

    var hasOutput: Bool { !output.isEmpty }

    /// Returns false where the client is gone.
    private func flush() -> Bool {
        while written < output.count {
            switch output[written...].withUnsafeBytes({ client.write($0) }) {
            case .bytes(let count): written += count
            case .wouldBlock:
                clock.clientIsFull()
                return true
            case .failed:
                end(resetting: client.failure ?? .closed(client))
                return false
            }
        }
        output = []
        written = 0
        return true
    }

    // MARK: The end

    private func timedOut() {
        switch state {
        case .head where input.count > consumed:
            answer(.bad(HTTPError(408, "the head of the request did not come in time")), closes: true)
        case .head, .lingering: end(resetting: nil)
        case .exchange: exchangeTimedOut()
        case .waiting, .closing, .over: end(resetting: StreamError(.timedOut, "the HTTP client does not read"))
        }
    }

    /// Everything was said, and goes out.
    func close() {
        state = .closing
        guard output.isEmpty else { return timer?.schedule(after: timeouts.head) ?? () }
        guard discards else { return end(resetting: nil) }
        state = .lingering
        client.finish()
        timer?.schedule(after: Self.lingering.time)
        linger()
    }

    /// A connection that is closed with bytes unread is reset, and what was written last may be lost with it.
    private func linger() {
        while state == .lingering {
            let buffer = loop.buffers.take(.medium)
            defer { loop.buffers.give(buffer) }
            switch client.read(into: buffer.writable) {
            case .bytes(let count):
                dropped += count
                if dropped > Self.lingering.bytes { return end(resetting: nil) }
            case .wouldBlock: return
            case .end, .failed: return end(resetting: nil)
            }
        }
    }

    func end(resetting reason: StreamError?) {
        guard retained.isHeld else { return }
        leave()
        cancel?()
        cancel = nil
        if let server {
            if let reason, exchange != nil { server.stream.abort(reason) } else { server.stream.letGo() }
        }
        server = nil
        dropExchange()
        if let reason {
            client.reset(reason)
        } else {
            client.finish()
            client.close()
        }
        retained.release()
    }

    /// The client is somebody else's from now on.
    func handOver() {
        server?.stream.letGo()
        server = nil
        leave()
        retained.release()
    }

    private func leave() {
        state = .over
        timer?.cancel()
        welcome()
        if carrier.live.connections.removeValue(forKey: ObjectIdentifier(self)) != nil { connectionEnded() }
    }
}
