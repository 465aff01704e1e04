public import CLinux
public import MeshIdentity
public import Streams

/// A stream of HTTP/2 as a byte stream (RFC 9113 §8.5), with the back-pressure of HTTP/2's flow control: a CONNECT
/// tunnel, or the bodies of a request and its answer.
///
/// ```
///   write(), or the source given to pull() ─→ sending ─→ fill(), called by the connection's flush, straight into its staging
///   deliver(), called once for each batch the connection has read ─→ the sink given to push(), or receiving ─→ read()
/// ```
///
/// Two halves, each with a state of its own. Credit is returned to the peer when bytes have left this object, so a
/// reader that does not read costs at most the window. An idle stream holds no buffer.
public final class H2Stream: ByteStream {
    /// How far the request has come.
    enum Phase {
        /// A client waits for the answer; a server has not given it.
        case requested
        case open
        /// Nothing more happens: the request failed, or the owner let go.
        case released
    }

    /// What the stream is for.
    enum Kind {
        /// Opened by any 2xx, refused by anything else.
        case tunnel
        /// A request with a body, which does not wait for the answer; an answer with any status, a body and trailers.
        case exchange
    }

    /// Nil once HTTP/2 is done with the stream; it lives on until its bytes were read.
    var connection: H2Connection?
    /// Who is answerable for what the queues hold, also when HTTP/2 is done with the stream.
    let account: H2Connection
    /// What ``account`` was told last.
    var usage = StreamUsage()
    /// The stream identifier.
    let id: Int32
    let kind: Kind
    package let requestHead: RequestHead
    /// For the limit on early resets.
    let requestedAt: UInt64
    var phase = Phase.requested
    /// The final head of the peer's message, until it is acted on.
    var head: MessageHead?
    var receiving: ReceivingHalf
    var sending: SendingHalf
    /// Some RST_STREAM was submitted or received.
    var wasReset = false
    /// What the peer said by RST_STREAM; nil: nothing.
    private var peerReset: HTTP2ErrorCode?
    /// The peer has reset the stream, and not only let go of what carried it (``letGo(_:)``).
    package var wasResetByPeer: Bool { peerReset.map { $0 != .streamClosed } ?? false }

    /// Client: called once with the outcome of the request.
    var completion: ((Result<H2Stream, ConnectFailure>) -> Void)?
    /// Server: the request while it waits for its answer.
    var pending: PendingConnect?

    /// The other end's answer (client), or what was sent (server); nil before that.
    public internal(set) var response: ConnectResponse?
    /// What an exchange's peer said after its body; nil before that, or without.
    var trailers: MessageHead?
    /// What an exchange says after its body, to be set before the end is given.
    package var trailersToSend: HeaderFields?
    /// Client: told of answers that are not the last (1xx).
    package var onInterim: ((_ status: Int, _ fields: HeaderFields) -> Void)?
    var interims: [MessageHead] = []
    /// The error code of the peer's RST_STREAM.
    package internal(set) var receivedReset: UInt32?
    /// The error code that a RST_STREAM of this side has; nil: what the reason means.
    package var resetCode: UInt32?

    init(id: Int32, _ head: RequestHead, kind: Kind, connection: H2Connection) {
        self.id = id
        self.kind = kind
        requestHead = head
        self.connection = connection
        account = connection
        receiving = ReceivingHalf(window: connection.configuration.windows.stream, pool: connection.loop.buffers)
        sending = SendingHalf(isHeld: kind == .tunnel || connection.isServer, pool: connection.loop.buffers)
        requestedAt = connection.loop.now
        super.init(loop: connection.loop)
    }

    /// What was asked for.
    public var request: ConnectRequest { ConnectRequest(requestHead) }

    public override var peerDescription: String {
        "\(requestHead.authority) through \(connection?.peerDescription ?? "a closed connection")"
    }

    /// The connection that carries the stream; nil once that is over.
    package var transport: H2Connection? { connection }

    /// Who is at the other end of the connection, as its certificate proved; nil without a verified identity.
    public var peer: SPIFFEID? { account.peer }

    /// The trace of a stream that came with none: both ends make the same of their connection and the stream's number,
    /// so that their records have it in common and nothing is sent for it. nil without TLS.
    package var ownTrace: TraceParent? { account.traceSeed.map { TraceParent(of: id, on: $0) } }

    /// Both directions ended without loss on this side's account.
    var isOver: Bool {
        guard receiving.state != .open else { return false }
        return switch sending.state {
        case .finished, .refused, .failed: true
        case .open, .finishing: false
        }
    }

    // MARK: ByteStream

    public override func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        let count = receiving.read(into: buffer)
        if count > 0 {
            updateUsage()
            credit(count)
            return .bytes(count)
        }
        guard phase != .released, receiving.state != .failed else { return failedReading() }
        // The end may have come with bytes that are about to be delivered.
        guard receiving.state.hasEnded, receiving.isEmpty else {
            receiving.readerWaits = true
            return .wouldBlock
        }
        receiving.state.deliveredEnd()
        return .end
    }

    public override func write(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        guard sending.state == .open, phase != .released else {
            fail(StreamError(.closed, "write after the end of the stream to \(peerDescription)"))
            return .failed
        }
        guard !sending.isHeld, let connection else {
            sending.writerWaits = true
            return .wouldBlock
        }
        guard let accepted = sending.accept(vectors, limit: connection.configuration.sendQueue) else {
            return .wouldBlock
        }
        if accepted > 0 {
            updateUsage()
            connection.wantsToSend(self)
        }
        return .bytes(accepted)
    }

    public override func finish() {
        guard phase != .released, sending.state.finish() else { return }
        if !sending.isHeld { connection?.wantsToSend(self) }
    }

    public override func reset(_ reason: StreamError) {
        abandon(reason, resetCode.map { HTTP2ErrorCode(rawValue: $0) } ?? code(for: reason))
    }

    private func code(for reason: StreamError) -> HTTP2ErrorCode {
        kind == .tunnel
            ? HTTP2ErrorCode(for: reason) : HTTP2ErrorCode(forExchange: reason, isServer: account.isServer)
    }

    /// As ``reset(_:)``, and tells the peer that what was inside goes on elsewhere.
    package func letGo(_ reason: StreamError) { abandon(reason, .streamClosed) }

    func abandon(_ reason: StreamError, _ code: HTTP2ErrorCode) {
        guard phase != .released else { return }
        fail(reason)
        release()
        dropQueues()
        guard let connection, !wasReset else { return }
        if !(receiving.state.hasEnded && sending.state == .finished) {
            wasReset = true
            connection.submitReset(self, code)
        }
        failHalves()
    }

    public override func close() {
        guard phase != .released else { return }
        switch sending.state {
        case .finishing where sending.source == nil, .finished, .refused:
            fail(.closedByOwner)
            let hadEnded = receiving.state != .open
            release()
            // What was accepted is still sent; then the peer is asked to stop (see `endWasSent`).
            if !hadEnded && sending.state == .finished { stopPeer() }
        case .open, .finishing, .failed:
            reset(StreamError(.closed, "the stream to \(peerDescription) was closed before it had ended"))
        }
    }

    // MARK: Direct paths

    public override func pull(from source: ByteStream, for pump: Pump) -> Bool {
        guard phase != .released, sending.state == .open, sending.queue.isEmpty else { return false }
        sending.source = source
        sending.pump = pump
        sending.sourceMayRead = true
        if !sending.isHeld { connection?.wantsToSend(self) }
        return true
    }

    public override func sourceBecameReadable() {
        guard sending.source != nil, !sending.sourceMayRead else { return }
        sending.sourceMayRead = true
        if !sending.isHeld { connection?.wantsToSend(self) }
    }

    /// As ``sourceBecameReadable()``, for what can wait: it goes with the next frames of the connection, or when
    /// ``hurry()`` is called.
    package func sourceMayBeRead() {
        guard sending.source != nil, !sending.sourceMayRead else { return }
        sending.sourceMayRead = true
        if !sending.isHeld { connection?.schedule(self) }
    }

    /// What waits for other frames goes now.
    package func hurry() { if !sending.isHeld { connection?.markDirty() } }

    /// Said by the source from inside of its read: what it gives now is all there is, until it says otherwise.
    package func sourceIsDry() { sending.sourceMayRead = false }

    /// What the frame that is being filled stands in; nil: nothing is. For a source that keeps what it gives: the bytes
    /// stay there for whoever shares the buffer.
    package var stagingBuffer: Buffer? { connection?.output.buffer }

    public override func push(to sink: ByteStream, for pump: Pump) -> Bool {
        guard phase != .released, failure == nil else { return false }
        receiving.sink = ReceivingHalf.Sink(stream: sink, pump: pump)
        // Never from inside this call: what has arrived so far is pushed when the loop comes round.
        if !receiving.queue.isEmpty || receiving.state != .open { loop.later { [weak self] in self?.drain() } }
        return true
    }

    public override func sinkBecameWritable() {
        receiving.sink?.isFull = false
        drain()
    }
}

extension H2Stream: StreamOfConnection {
    var connectionAddress: SocketAddress? { account.remoteAddress }
}

// What the connection tells a stream of its life, outside of nghttp2.
extension H2Stream {
    /// The request was answered with 2xx, or accepted.
    func open() {
        phase = .open
        if sending.release() { connection?.wantsToSend(self) }
        if sending.writerWaits, let connection {
            sending.writerWaits = false
            connection.addEvent(.writable(self))
        }
    }

    /// RST_STREAM by the peer.
    func received(reset code: HTTP2ErrorCode) {
        peerReset = code
        if kind == .exchange, account.isServer, code != .noError, sending.state != .finished {
            // Not only that a client reads no more, as the end of a tunnel: nobody is to work on its request.
            let error = StreamError(.reset, "the client reset the request (\(code))")
            failHalves()
            return lost(error)
        }
        switch ResetOutcome(code, receiving: receiving.state, sending: sending.state) {
        case .ignored: break
        case .stopWriting:
            sending.state.refuse()
            writingRefused()
        case .failed(let error):
            failHalves()
            lost(error)
        }
    }

    /// The stream is over with loss: a reset, or the connection died.
    func lost(_ error: StreamError) {
        guard phase != .released else { return }
        let wasRequested = phase == .requested
        fail(error)
        failHalves()
        dropQueues()
        let (reader, writer) = (receiving.sink?.pump, sending.pump)
        receiving.sink = nil
        sending.source = nil
        sending.pump = nil
        if wasRequested { return }
        if let pump = reader ?? writer {
            pump.failed(error)
            if reader != nil { writer?.failed(error) }
        } else {
            observer?.streamFailed(self)
        }
    }

    func failHalves() {
        receiving.state.fail()
        sending.state.fail()
    }

    /// The owner has turned the request down.
    func refuse() {
        phase = .released
        dropQueues()
    }

    /// The owner lets go: nothing that arrives is kept.
    func release() {
        phase = .released
        let unread = receiving.drop()
        updateUsage()
        receiving.sink = nil
        sending.source = nil
        sending.pump = nil
        completion = nil
        onInterim = nil
        if unread > 0 { credit(unread) }
    }

    /// nghttp2 has forgotten the stream, or the connection is gone.
    func detach() {
        guard let connection else { return }
        if phase != .released && sending.state == .finishing { failHalves() }
        self.connection = nil
        connection.detached(self)
    }

    // MARK: What it costs, for the limits of the connection

    /// To be called after every change of a queue.
    func updateUsage() {
        let held = receiving.queue.capacity + sending.queue.capacity
        guard let change = usage.update(queued: receiving.queue.count, held: held) else { return }
        account.account(for: self, queued: change.queued, held: change.held)
    }

    func dropQueues() {
        _ = receiving.drop()
        sending.drop()
        updateUsage()
    }

    /// Bytes or an end wait here for someone who does not take them.
    var hasToMove: Bool {
        guard phase != .requested else { return false }
        if !receiving.queue.isEmpty { return true }
        return connection != nil && !wasReset && sending.isBlocked
    }
}
