import CLinux
import CNGHTTP2
import Streams

extension H2Connection {
    /// What one `mem_recv` found, before it is delivered.
    struct InputBatch {
        var chunks = ChunkList()
        /// Streams with chunks, in the order of their first one.
        var touched: ContiguousArray<H2Stream> = []
        /// Scratch for the vectors of one stream.
        var vectors: ContiguousArray<iovec> = []
        /// The stream of the last chunk: frames of one stream come in rows.
        var lastStream: H2Stream?
        /// DATA bytes, to be credited on the connection window.
        var count = 0
        /// The header block that is being received: no other frame comes between its parts (RFC 9113 §4.3). nil where
        /// nobody wants it.
        var block: MessageHead?
    }

    /// Reads the layer below until it has nothing more, a batch at a time.
    func readInput() {
        if !early.isEmpty { processEarly() }
        var batches = 0
        while !isClosed && input.isOpen {
            guard batches < InputGate.batchesPerTurn else { return scheduleInput() }
            batches += 1
            // Before the next batch, so that WINDOW_UPDATE does not wait for the end of the turn, and so that nghttp2
            // is not fed when it has terminated the session.
            if batches > 1 && output.isDirty {
                flush()
                guard !isClosed, input.isOpen else { return }
            }
            let buffer = loop.buffers.take(.large)
            let result = lower.read(into: buffer.writable)
            if case .bytes(let count) = result { process(buffer.base, count) }
            loop.buffers.give(buffer)
            switch result {
            case .bytes: break
            case .wouldBlock: return
            case .end: return lowerEnded()
            case .failed: return lowerFailed()
            }
        }
    }

    func scheduleInput() {
        if input.schedule() { loop.nextTurn(self) }
    }

    private func processEarly() {
        var bytes = early
        early = []
        bytes.withUnsafeMutableBytes { bytes in
            if let base = bytes.baseAddress { process(base, bytes.count) }
        }
    }

    private func process(_ bytes: UnsafeMutableRawPointer, _ count: Int) {
        counters.bytesReceived += UInt64(count)
        if exported.schedule() { scheduleMetrics() }
        lastReceived = loop.now
        if !pings.isEmpty { answerProbes() }
        if doubt != nil { endDoubt() }
        guard !isClosed, session != nil else { return }
        isInLibrary = true
        let failure = session?.receive(UnsafeRawBufferPointer(start: bytes, count: count))
        isInLibrary = false
        creditConnection(batch.count)
        batch.count = 0
        batch.lastStream = nil
        dispatchHeads()
        deliver()
        dispatch()
        guard !isClosed else { return }
        if let failure {
            // Nothing of what nghttp2 would still send explains this to the peer.
            return end(StreamError(.protocolViolation, "HTTP/2 from \(peerDescription): \(failure)"))
        }
        if rules.broken != nil { leaveBrokenConnection() }
        if session?.wantsWrite == true { markDirty() }
        if output.lowerIsFull && (session?.queuedFrames ?? 0) > configuration.limits.outboundFrames && input.pause() {
            counters.inputPauses += 1
        }
    }

    // MARK: Called by nghttp2

    func beginHeaders(category: nghttp2_headers_category, stream: H2Stream?) {
        let isWanted =
            if let stream {
                stream.kind == .exchange || !isServer && stream.phase == .requested && stream.head == nil
            } else {
                isServer && category == NGHTTP2_HCAT_REQUEST
            }
        batch.block = isWanted ? MessageHead(after: lastRequest) : nil
    }

    func receivedHeader(name: UnsafeBufferPointer<UInt8>, value: UnsafeBufferPointer<UInt8>) {
        batch.block?.add(name: name, value: value, limits: configuration.limits)
    }

    /// nghttp2 leaves fields out whose name or value HTTP/2 does not allow, where RFC 9113 §8.1.1 has the whole message
    /// as malformed: to whom it goes on another reader would have read another one.
    func receivedInvalidHeader() { batch.block?.isMalformed = true }

    func receivedData(_ bytes: UnsafeMutableRawPointer, _ count: Int, id: Int32) {
        batch.count += count
        guard let stream = batch.lastStream.flatMap({ $0.id == id ? $0 : nil }) ?? streams[id] else { return }
        batch.lastStream = stream
        if stream.receiving.chunks.isEmpty { batch.touched.append(stream) }
        batch.chunks.append(bytes, count, to: &stream.receiving.chunks)
    }

    func receivedFrame(_ frame: UnsafePointer<nghttp2_frame>, stream: H2Stream?) {
        let header = cnghttp2_header(frame).pointee
        let endsStream = header.flags & UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) != 0
        let isAcknowledgment = header.flags & UInt8(NGHTTP2_FLAG_ACK.rawValue) != 0
        switch nghttp2_frame_type(UInt32(header.type)) {
        case NGHTTP2_DATA:
            receivedFlowControlled(header.length)
            // Padding is no payload; `padlen` counts its length field as well.
            if endsStream {
                receivedEnd(stream)
            } else if header.length == frame.pointee.data.padlen {
                countControlFrame()
            }
        case NGHTTP2_HEADERS:
            receivedHead(id: header.stream_id, stream, endsStream: endsStream)
        case NGHTTP2_RST_STREAM:
            counters.resetsReceived += 1
            guard let stream else { return }
            countReset(of: stream)
            events.record(.reset(stream, HTTP2ErrorCode(rawValue: frame.pointee.rst_stream.error_code)))
            stream.wasReset = true
        case NGHTTP2_GOAWAY:
            countControlFrame()
            events.record(.goAway)
        case NGHTTP2_WINDOW_UPDATE:
            countWindowUpdate()
            if header.stream_id == 0 { peerWindow.opened() }
        case NGHTTP2_PING:
            if isAcknowledgment {
                var id: UInt64 = 0
                withUnsafeBytes(of: frame.pointee.ping.opaque_data) { opaque in
                    withUnsafeMutableBytes(of: &id) { $0.copyMemory(from: opaque) }
                }
                events.record(.pong(id))
            } else {
                countControlFrame()
            }
        case NGHTTP2_SETTINGS:
            countControlFrame()
            if isAcknowledgment {
                roundTrip.saw(EventLoop.monotonicTime() &- settingsSentAt)
            } else {
                checkWindows()
                if let makes = NGHTTP2Session.makesTraces(frame.pointee.settings) { peerMakesTraces = makes }
                if let bytes = NGHTTP2Session.acknowledges(frame.pointee.settings) { peerAcknowledges = bytes }
                if let process = NGHTTP2Session.process(frame.pointee.settings) { peerProcess = process }
                if !isServer || isReversed { events.record(.settings) }
            }
        default: break
        }
    }

    private func receivedHead(id: Int32, _ stream: H2Stream?, endsStream: Bool) {
        let block = batch.block
        batch.block = nil
        guard let stream else {
            if let block { receivedRequest(block, id: id, endsStream: endsStream) }
            return
        }
        if let block, block.status >= 200 {
            stream.head = block
            heads.record(stream)
        } else if let block, block.status >= 100 {
            // A server may send any number of these.
            countControlFrame()
            if stream.onInterim != nil {
                stream.interims.append(block)
                heads.record(stream)
            }
        } else if stream.kind == .exchange, isServer || stream.head != nil || stream.response != nil {
            if block?.isMalformed == true || block?.isTooLarge == true { return breaksRule(stream) }
            stream.trailers = block
            countControlFrame()
        } else if stream.phase != .released {
            // Trailers, which a tunnel has not (RFC 9113 §8.5), or an answer without a status.
            return breaksRule(stream)
        } else {
            countControlFrame()
        }
        if endsStream { receivedEnd(stream) }
    }

    func receivedEnd(_ stream: H2Stream?) {
        guard let stream else { return }
        stream.receiving.state.receivedEnd()
        events.record(.readingEnded(stream))
    }

    func streamClosed(id: Int32, code: HTTP2ErrorCode) {
        guard let stream = streams.removeValue(forKey: id) else { return }
        events.record(.closed(stream, code))
    }

    func receivedInvalidFrame() { counters.invalidFramesReceived += 1 }

    // MARK: Delivery, outside of nghttp2

    private func deliver() {
        guard !batch.touched.isEmpty else { return }
        for stream in batch.touched {
            guard !isClosed else { return }
            // Taken out, so that nothing that the reader does finds the array in use.
            var vectors = ContiguousArray<iovec>()
            swap(&vectors, &batch.vectors)
            let count = batch.chunks.take(&stream.receiving.chunks, into: &vectors)
            vectors.withUnsafeBufferPointer { stream.deliver($0, count: count) }
            vectors.removeAll(keepingCapacity: true)
            swap(&vectors, &batch.vectors)
        }
        guard !isClosed else { return }
        batch.touched.removeAll(keepingCapacity: true)
        batch.chunks.removeAll()
    }
}
