public import CLinux
public import Streams

/// A tunnel: an HTTP/2 CONNECT stream as a byte stream (RFC 9113 §8.5), with the back-pressure of HTTP/2's flow control.
///
/// ```
///   write(), or the source given to pull() ─→ outgoing ─→ fill(), called by the connection's flush, straight into its staging
///   deliver(), called once for each batch the connection has read ─→ the sink given to push(), or incoming ─→ read()
/// ```
///
/// Credit is returned to the peer when bytes have left this object, so a reader that does not read costs at most the window.
/// An idle stream holds no buffer.
public final class H2Stream: ByteStream {
    /// How far the request has come.
    enum Phase {
        /// A client waits for the answer; a server has not given it.
        case requested
        case open
        /// Nothing more happens: the request failed, or the owner let go.
        case released
    }

    /// Nil once HTTP/2 is done with the stream; it lives on until its bytes were read.
    var connection: H2Connection?
    /// Who is answerable for what the queues hold, also when HTTP/2 is done with the stream.
    let account: H2Connection
    /// What ``account`` was told last; see H2Stream+Usage.swift.
    var usage = StreamUsage()
    /// The stream identifier.
    let id: Int32
    var phase = Phase.requested
    var state = ConnectStreamState()
    /// A header block that is being received.
    var head: MessageHead?

    // Receiving.
    var incoming: ByteQueue
    /// The part of the batch being delivered that nobody took yet.
    var batch = BatchReader()
    /// The chunks of the batch being read that belong to this stream.
    var chunks = ChunkRange()
    var window: ReceiveWindow
    /// Taken by the reader and not yet credited to the peer.
    var uncredited = 0
    var sink: ByteStream?
    var pushPump: Pump?
    var sinkIsFull = false
    var sinkHasFailed = false
    var readerWaits = true
    /// The reader was told that the stream ended.
    var endWasRead = false

    // Sending.
    var outgoing: ByteQueue
    var source: ByteStream?
    var pullPump: Pump?
    var sourceMayRead = false
    var writerWaits = false
    /// nghttp2 asks for no data until it is resumed (NGHTTP2_ERR_DEFERRED).
    var isDeferred = false
    /// Waits for its turn in the connection's schedule.
    var isScheduled = false
    /// Sent since the stream last waited for its turn.
    var sentInTurn = 0
    /// Some RST_STREAM was submitted or received.
    var wasReset = false
    /// For the limit on early resets.
    let requestedAt: UInt64

    /// Client: called once with the outcome of the request.
    var completion: ((Result<H2Stream, ConnectFailure>) -> Void)?
    /// Server: the request while it waits for its answer.
    var pending: PendingConnect?

    /// The other end's answer (client), or what was sent (server); nil before that.
    public internal(set) var response: ConnectResponse?
    /// What was asked for.
    public let request: ConnectRequest

    init(id: Int32, request: ConnectRequest, connection: H2Connection) {
        self.id = id
        self.request = request
        self.connection = connection
        account = connection
        incoming = ByteQueue(pool: connection.loop.buffers)
        outgoing = ByteQueue(pool: connection.loop.buffers)
        window = ReceiveWindow(size: connection.configuration.windows.stream)
        requestedAt = connection.loop.now
        super.init(loop: connection.loop)
    }

    public override var peerDescription: String {
        "\(request.authority) through \(connection?.peerDescription ?? "a closed connection")"
    }

    /// The connection that carries the stream; nil once that is over.
    public var transport: H2Connection? { connection }

    // MARK: ByteStream

    public override func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        var count = 0
        if !incoming.isEmpty {
            count = incoming.read(into: buffer)
            updateUsage()
        }
        if count < buffer.count { count += batch.read(into: UnsafeMutableRawBufferPointer(rebasing: buffer[count...])) }
        if count > 0 {
            credit(count)
            return .bytes(count)
        }
        switch state.reading {
        case .open:
            guard phase != .released else { return failedReading() }
            readerWaits = true
            return .wouldBlock
        case .ended:
            guard phase != .released else { return failedReading() }
            // The end came with bytes that are about to be delivered.
            guard chunks.isEmpty else {
                readerWaits = true
                return .wouldBlock
            }
            endWasRead = true
            return .end
        case .failed: return failedReading()
        }
    }

    public override func write(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        guard state.isWritable, phase != .released else {
            fail(StreamError(.closed, "write after the end of the stream to \(peerDescription)"))
            return .failed
        }
        guard phase == .open, let connection else {
            writerWaits = true
            return .wouldBlock
        }
        var room = connection.configuration.sendQueue - outgoing.count
        guard room > 0 else {
            writerWaits = true
            return .wouldBlock
        }
        var accepted = 0
        for vector in vectors {
            let length = min(vector.iov_len, room)
            outgoing.append(UnsafeRawBufferPointer(start: vector.iov_base, count: length))
            accepted += length
            room -= length
            if length < vector.iov_len {
                writerWaits = true
                break
            }
        }
        if accepted > 0 {
            updateUsage()
            connection.wantsToSend(self)
        }
        return .bytes(accepted)
    }

    public override func finish() {
        guard phase != .released, state.finish() else { return }
        if phase == .open { connection?.wantsToSend(self) }
    }

    public override func reset(_ reason: StreamError) {
        abandon(reason, HTTP2ErrorCode(for: reason))
    }

    func abandon(_ reason: StreamError, _ code: HTTP2ErrorCode) {
        guard phase != .released else { return }
        fail(reason)
        release()
        dropQueues()
        guard let connection, !wasReset else { return }
        if !(state.reading == .ended && state.writing == .finished) {
            wasReset = true
            connection.submitReset(self, code)
        }
        state.fail()
    }

    public override func close() {
        guard phase != .released else { return }
        switch state.writing {
        case .finishing where source == nil, .finished, .refused:
            fail(.closedByOwner)
            let hadEnded = state.reading != .open
            release()
            // What was accepted is still sent; then the peer is asked to stop (see `endWasSent`).
            if !hadEnded && state.writing == .finished { stopPeer() }
        default:
            reset(StreamError(.closed, "the stream to \(peerDescription) was closed before it had ended"))
        }
    }

    // MARK: Direct paths

    public override func pull(from source: ByteStream, for pump: Pump) -> Bool {
        guard phase != .released, state.isWritable, outgoing.isEmpty else { return false }
        self.source = source
        pullPump = pump
        sourceMayRead = true
        if phase == .open { connection?.wantsToSend(self) }
        return true
    }

    public override func sourceBecameReadable() {
        guard source != nil, !sourceMayRead else { return }
        sourceMayRead = true
        if phase == .open { connection?.wantsToSend(self) }
    }

    public override func push(to sink: ByteStream, for pump: Pump) -> Bool {
        guard phase != .released, failure == nil else { return false }
        self.sink = sink
        pushPump = pump
        sinkIsFull = false
        // Never from inside this call: what has arrived so far is pushed when the loop comes round.
        if !incoming.isEmpty || state.reading != .open { LoopCall(on: loop) { [weak self] in self?.drain() } }
        return true
    }

    public override func sinkBecameWritable() {
        sinkIsFull = false
        drain()
    }
}
