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
    /// The stream identifier.
    let id: Int32
    var phase = Phase.requested
    var state = ConnectStreamState()
    /// A header block that is being received.
    var head: MessageHead?

    // Receiving.
    var incoming: ByteQueue
    /// The part of the batch being delivered that nobody took yet.
    private var batch = Batch()
    /// The chunks of the batch being read that belong to this stream: indices of the connection's list; −1 without.
    var firstChunk: Int32 = -1
    var lastChunk: Int32 = -1
    /// Taken by the reader and not yet credited to the peer.
    private var uncredited = 0
    private var sink: ByteStream?
    private var pushPump: Pump?
    private var sinkIsFull = false
    private var sinkHasFailed = false
    private var readerWaits = true
    /// The reader was told that the stream ended.
    private var endWasRead = false

    // Sending.
    private var outgoing: ByteQueue
    private var source: ByteStream?
    private var pullPump: Pump?
    private var sourceMayRead = false
    private var writerWaits = false
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
        incoming = ByteQueue(pool: connection.loop.buffers)
        outgoing = ByteQueue(pool: connection.loop.buffers)
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
            connection?.queuedBytes -= count
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
        if accepted > 0 { connection.wantsToSend(self) }
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
        outgoing.removeAll()
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
            fail(StreamError(.closed, "the stream to \(peerDescription) was closed"))
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

    // MARK: Sending, called by the connection

    /// What ``fill(_:)`` put into the staging buffer.
    struct Filled {
        var count: Int
        var isEnd: Bool
    }

    /// Copies or reads what there is to send into `space`. Runs inside nghttp2: calls nothing but reads of the source.
    func fill(_ space: UnsafeMutableRawBufferPointer) -> Filled? {
        guard phase != .requested else { return nil }
        var count = 0
        if !outgoing.isEmpty {
            count = outgoing.read(into: space)
            if writerWaits, let connection, outgoing.count <= connection.configuration.sendQueue / 2 {
                writerWaits = false
                connection.events.append(.writable(self))
            }
        }
        if let source, outgoing.isEmpty { count += fill(space, from: count, by: source) }
        let isEnd = outgoing.isEmpty && source == nil && state.writing == .finishing
        if isEnd { state.sentEnd() }
        return count > 0 || isEnd ? Filled(count: count, isEnd: isEnd) : nil
    }

    /// Reads until the frame is full or the source has nothing: END_STREAM rides with the last bytes.
    private func fill(_ space: UnsafeMutableRawBufferPointer, from start: Int, by source: ByteStream) -> Int {
        var count = start
        reading: while count < space.count && sourceMayRead {
            switch source.read(into: UnsafeMutableRawBufferPointer(rebasing: space[count...])) {
            case .bytes(let length): count += length
            case .wouldBlock: sourceMayRead = false
            case .end:
                self.source = nil
                _ = state.finish()
                connection?.events.append(.sourceEnded(self))
                break reading
            case .failed:
                sourceMayRead = false
                connection?.events.append(.sourceFailed(self))
                break reading
            }
        }
        if count > start { pullPump?.moved(count - start) }
        return count - start
    }

    /// The frame with END_STREAM was handed to the layer below.
    func endWasSent() {
        if phase == .released && state.reading == .open { stopPeer() }
    }

    /// The owner has turned the request down.
    func refuse() {
        phase = .released
        dropQueues()
    }

    /// The refusal, which ends this side, was sent.
    func refusalWasSent() {
        if phase == .released && state.reading == .open { stopPeer() }
    }

    /// Tells the peer that what it still sends has no reader (RFC 9113 §8.1: NO_ERROR by a server that has answered).
    private func stopPeer() {
        guard let connection, !wasReset else { return }
        wasReset = true
        connection.submitReset(self, connection.isServer ? .noError : .cancel)
    }

    // MARK: Events, called by the connection outside of nghttp2

    func sourceEnded() {
        guard let pump = pullPump else { return }
        pullPump = nil
        pump.sourceEnded()
    }

    func sourceFailed() {
        guard let source, let pump = pullPump else { return }
        let error = source.failure ?? StreamError(.closed, "\(source.peerDescription) failed")
        self.source = nil
        pullPump = nil
        pump.failed(error)
    }

    func becameWritable() {
        guard phase != .released else { return }
        observer?.streamWritable(self)
    }

    /// The request was answered with 2xx, or accepted.
    func open() {
        phase = .open
        if !outgoing.isEmpty || source != nil || state.writing == .finishing {
            connection?.wantsToSend(self)
        }
        if writerWaits, let connection {
            writerWaits = false
            connection.addEvent(.writable(self))
        }
    }

    /// The bytes of one batch; ``incoming`` keeps what nobody takes.
    func deliver(_ vectors: UnsafeBufferPointer<iovec>, count: Int) {
        if phase == .released { return credit(count) }
        if let sink, incoming.isEmpty, !sinkIsFull {
            let taken = push(vectors, count: count, to: sink)
            if sinkHasFailed {
                sinkFailed()
            } else if taken < count {
                keep(vectors, from: taken, count: count - taken)
            }
        } else if sink == nil && incoming.isEmpty && readerWaits && phase == .open, let observer {
            batch = Batch(vectors: vectors)
            readerWaits = false
            observer.streamReadable(self)
            if phase == .released || state.reading == .failed {
                credit(batch.count)
            } else if batch.count > 0 {
                batch.append(to: &incoming)
                connection?.queuedBytes += batch.count
            }
            batch = Batch()
        } else {
            keep(vectors, from: 0, count: count)
            tellReader()
        }
    }

    /// END_STREAM has arrived, or a failure: whoever waits for bytes learns it.
    func readingEnded() {
        if sink != nil {
            drain()
        } else {
            tellReader()
        }
    }

    /// The peer reads no more (``ConnectStreamState/ResetOutcome/stopWriting``).
    func writingRefused() {
        outgoing.removeAll()
        fail(StreamError(.closed, "\(peerDescription) has ended the stream and reads no more"))
        if pullPump != nil {
            stopPulling()
        } else if writerWaits {
            writerWaits = false
            connection?.addEvent(.writable(self))
        }
    }

    /// The stream is over with loss: a reset, or the connection died.
    func lost(_ error: StreamError) {
        guard phase != .released else { return }
        let wasRequested = phase == .requested
        fail(error)
        state.fail()
        dropQueues()
        let pumps = [pushPump, pullPump]
        source = nil
        sink = nil
        pushPump = nil
        pullPump = nil
        if wasRequested { return }
        if let pump = pumps[0] ?? pumps[1] {
            pump.failed(error)
            if pumps[0] != nil { pumps[1]?.failed(error) }
        } else {
            observer?.streamFailed(self)
        }
    }

    /// nghttp2 has forgotten the stream, or the connection is gone.
    func detach() {
        guard let connection else { return }
        connection.queuedBytes -= incoming.count
        if phase != .released && state.writing == .finishing { state.fail() }
        self.connection = nil
    }

    // MARK: -

    /// Writes a batch to the sink; returns how much was taken.
    private func push(_ vectors: UnsafeBufferPointer<iovec>, count: Int, to sink: ByteStream) -> Int {
        switch sink.write(vectors) {
        case .bytes(let taken):
            if taken < count { sinkIsFull = true }
            credit(taken)
            pushPump?.moved(taken)
            return taken
        case .wouldBlock:
            sinkIsFull = true
            return 0
        case .failed:
            sinkHasFailed = true
            return 0
        }
    }

    private func sinkFailed() {
        guard let sink, let pump = pushPump else { return }
        self.sink = nil
        pushPump = nil
        pump.failed(sink.failure ?? StreamError(.closed, "\(sink.peerDescription) failed"))
    }

    /// Pushes what is queued, and the end behind it.
    private func drain() {
        while let sink, !sinkIsFull, !sinkHasFailed, !incoming.isEmpty {
            let taken = incoming.withVectors { vectors in
                var offered = 0
                for vector in vectors { offered += vector.iov_len }
                return push(vectors, count: offered, to: sink)
            }
            incoming.consume(taken)
            connection?.queuedBytes -= taken
        }
        if sinkHasFailed { return sinkFailed() }
        guard let sink, let pump = pushPump, incoming.isEmpty, phase != .released else { return }
        switch state.reading {
        case .open: return
        case .ended:
            self.sink = nil
            pushPump = nil
            endWasRead = true
            sink.finish()
            pump.sourceEnded()
            if state.writing == .refused { stopPulling() }
        case .failed:
            self.sink = nil
            pushPump = nil
            pump.failed(failure ?? StreamError(.reset, "the stream to \(peerDescription) failed"))
        }
    }

    /// The source has no reader any more. Told only when the other direction has been delivered, because a relay takes
    /// `closed` as the end of both.
    private func stopPulling() {
        guard endWasRead || pushPump == nil, let pump = pullPump else { return }
        pullPump = nil
        source = nil
        pump.failed(failure ?? StreamError(.closed, "\(peerDescription) reads no more"))
    }

    private func tellReader() {
        guard readerWaits, sink == nil, phase == .open else { return }
        readerWaits = false
        observer?.streamReadable(self)
    }

    private func keep(_ vectors: UnsafeBufferPointer<iovec>, from start: Int, count: Int) {
        var skip = start
        for vector in vectors {
            if skip >= vector.iov_len {
                skip -= vector.iov_len
                continue
            }
            let piece = UnsafeRawBufferPointer(start: vector.iov_base, count: vector.iov_len)
            incoming.append(UnsafeRawBufferPointer(rebasing: piece[skip...]))
            skip = 0
        }
        connection?.queuedBytes += count
    }

    /// Bytes have left: the peer may send as many more. nghttp2 sends WINDOW_UPDATE at half a window, so it is told no sooner.
    private func credit(_ count: Int) {
        guard let connection else { return }
        uncredited += count
        if uncredited >= connection.configuration.windows.stream / 2 {
            connection.creditStream(self, uncredited)
            uncredited = 0
        }
    }

    /// The owner lets go: nothing that arrives is kept.
    private func release() {
        phase = .released
        let unread = incoming.count + batch.count
        connection?.queuedBytes -= incoming.count
        incoming.removeAll()
        batch = Batch()
        source = nil
        sink = nil
        pushPump = nil
        pullPump = nil
        completion = nil
        if unread > 0 { credit(unread) }
    }

    private func dropQueues() {
        connection?.queuedBytes -= incoming.count
        incoming.removeAll()
        outgoing.removeAll()
    }

    private func failedReading() -> ReadResult {
        fail(StreamError(.closed, "the stream to \(peerDescription) was closed"))
        return .failed
    }
}

/// The vectors of a batch while a reader takes them.
private struct Batch {
    private var vectors = UnsafeBufferPointer<iovec>(start: nil, count: 0)
    private var index = 0
    private var offset = 0
    private(set) var count = 0

    init() {}

    init(vectors: UnsafeBufferPointer<iovec>) {
        self.vectors = vectors
        for vector in vectors { count += vector.iov_len }
    }

    mutating func read(into buffer: UnsafeMutableRawBufferPointer) -> Int {
        guard count > 0, let destination = buffer.baseAddress else { return 0 }
        var copied = 0
        while copied < buffer.count && index < vectors.count {
            let vector = vectors[index]
            let length = min(buffer.count - copied, vector.iov_len - offset)
            if let base = vector.iov_base { (destination + copied).copyMemory(from: base + offset, byteCount: length) }
            copied += length
            offset += length
            if offset == vector.iov_len {
                index += 1
                offset = 0
            }
        }
        count -= copied
        return copied
    }

    /// What was not read.
    func append(to queue: inout ByteQueue) {
        var skip = offset
        for vector in vectors[index...] {
            let piece = UnsafeRawBufferPointer(start: vector.iov_base, count: vector.iov_len)
            queue.append(UnsafeRawBufferPointer(rebasing: piece[skip...]))
            skip = 0
        }
    }
}
