import CLinux
import CNGHTTP2
import Streams

/// What one `mem_recv` found, before it is delivered: pieces of the batch buffer, linked by stream.
struct InputBatch {
    struct Chunk {
        var vector: iovec
        /// The next piece of the same stream; −1 at the end.
        var next: Int32
    }

    var chunks: ContiguousArray<Chunk> = []
    /// Streams with chunks, in the order of their first one.
    var touched: ContiguousArray<H2Stream> = []
    /// Scratch for the vectors of one stream.
    var vectors: ContiguousArray<iovec> = []
    /// The stream of the last chunk: frames of one stream come in rows.
    var lastStream: H2Stream?
    /// DATA bytes, to be credited on the connection window.
    var count = 0
    /// Server: header blocks of streams that do not exist yet.
    var newHeads: [Int32: MessageHead] = [:]
}

extension H2Connection {
    /// A connection reads at most this many batches of 256 KiB before the others on its loop have a turn.
    private static var batchesPerTurn: Int { 4 }

    /// Reads the layer below until it has nothing more, a batch at a time.
    func readInput() {
        var batches = 0
        while !isClosed && !inputHasEnded && !inputIsPaused {
            guard batches < Self.batchesPerTurn else { return scheduleInput() }
            batches += 1
            // Before the next batch, so that WINDOW_UPDATE does not wait for the end of the turn, and so that nghttp2 is not
            // fed when it has terminated the session.
            if batches > 1 && isDirty {
                flush()
                guard !isClosed, !inputHasEnded else { return }
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
        guard !inputIsScheduled else { return }
        inputIsScheduled = true
        loop.nextTurn(self)
    }

    /// Without GOAWAY or END_STREAM, the end of the transport is a truncation for every stream that is open.
    private func lowerEnded() {
        inputHasEnded = true
        lowerHasEnded = true
        let wasClean = streams.values.allSatisfy { $0.state.isOver }
        end(wasClean ? nil : StreamError(.truncated, "\(peerDescription) closed the connection with streams open"))
    }

    /// Where both sides have said goodbye and no stream is open, nothing can have been lost.
    func lowerFailed() {
        let error = lower.failure ?? StreamError(.truncated, "the connection to \(peerDescription) failed")
        end(isDraining && streams.isEmpty && closeReason == nil ? nil : closeReason ?? error)
    }

    private func process(_ bytes: UnsafeMutableRawPointer, _ count: Int) {
        guard let nghttp2 else { return }
        counters.bytesReceived += UInt64(count)
        if !exported.isScheduled { scheduleMetrics() }
        lastReceived = loop.now
        if !pings.isEmpty { answerProbes() }
        guard !isClosed else { return }
        isInLibrary = true
        let result = nghttp2_session_mem_recv(nghttp2, bytes.assumingMemoryBound(to: UInt8.self), count)
        isInLibrary = false
        creditConnection(batch.count)
        batch.count = 0
        batch.lastStream = nil
        dispatchHeads()
        deliver()
        dispatch()
        guard !isClosed else { return }
        guard result >= 0 else {
            // Nothing of what nghttp2 would still send explains this to the peer.
            let reason = String(cString: nghttp2_strerror(Int32(result)))
            return end(StreamError(.protocolViolation, "HTTP/2 from \(peerDescription): \(reason)"))
        }
        if nghttp2_session_want_write(nghttp2) != 0 { markDirty() }
        if lowerIsFull && nghttp2_session_get_outbound_queue_size(nghttp2) > configuration.limits.outboundFrames {
            counters.inputPauses += 1
            inputIsPaused = true
        }
    }

    /// Room below: what was not read because the peer did not read either.
    func resumeInput() {
        guard inputIsPaused else { return }
        inputIsPaused = false
        scheduleInput()
    }

    // MARK: Called by nghttp2

    func beginHeaders(id: Int32, category: nghttp2_headers_category, stream: H2Stream?) {
        if let stream {
            // A final response after 1xx has the category of trailers.
            if !isServer && stream.phase == .requested { stream.head = MessageHead() }
            return
        }
        guard isServer, category == NGHTTP2_HCAT_REQUEST else { return }
        batch.newHeads[id] = MessageHead()
    }

    func receivedHeader(
        id: Int32,
        stream: H2Stream?,
        name: UnsafeBufferPointer<UInt8>,
        value: UnsafeBufferPointer<UInt8>
    ) {
        (stream?.head ?? batch.newHeads[id])?.add(name: name, value: value, limits: configuration.limits)
    }

    func receivedData(_ bytes: UnsafeMutableRawPointer, _ count: Int, id: Int32) {
        batch.count += count
        guard let stream = batch.lastStream.flatMap({ $0.id == id ? $0 : nil }) ?? streams[id] else { return }
        batch.lastStream = stream
        let index = Int32(truncatingIfNeeded: batch.chunks.count)
        if stream.lastChunk >= 0 {
            let last = Int(stream.lastChunk)
            // Small frames become one piece: nghttp2 is past everything before `bytes`, which is our own buffer.
            if count <= 4096, last == batch.chunks.count - 1, let base = batch.chunks[last].vector.iov_base {
                let end = base + batch.chunks[last].vector.iov_len
                memmove(end, bytes, count)
                batch.chunks[last].vector.iov_len += count
                return
            }
            batch.chunks[last].next = index
        } else {
            stream.firstChunk = index
            batch.touched.append(stream)
        }
        stream.lastChunk = index
        batch.chunks.append(InputBatch.Chunk(vector: iovec(iov_base: bytes, iov_len: count), next: -1))
    }

    func receivedFrame(_ frame: UnsafePointer<nghttp2_frame>, stream: H2Stream?) {
        let header = cnghttp2_header(frame).pointee
        let endsStream = header.flags & UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) != 0
        switch nghttp2_frame_type(UInt32(header.type)) {
        case NGHTTP2_DATA:
            // Padding is no payload; `padlen` counts its length field as well.
            if endsStream {
                receivedEnd(stream)
            } else if header.length == frame.pointee.data.padlen {
                countControlFrame()
            }
        case NGHTTP2_HEADERS:
            if stream?.head == nil, let head = batch.newHeads.removeValue(forKey: header.stream_id) {
                receivedRequest(head, id: header.stream_id, endsStream: endsStream)
            } else if let stream {
                if stream.head.map({ $0.status >= 200 }) == true {
                    headEvents.append(stream)
                } else {
                    // 1xx, of which a server may send any number.
                    stream.head = nil
                    countControlFrame()
                }
                if endsStream { receivedEnd(stream) }
            }
        case NGHTTP2_RST_STREAM:
            counters.resetsReceived += 1
            guard let stream else { return }
            countEarlyReset(of: stream)
            events.append(.reset(stream, HTTP2ErrorCode(rawValue: frame.pointee.rst_stream.error_code)))
            stream.wasReset = true
        case NGHTTP2_GOAWAY:
            countControlFrame()
            events.append(.goAway)
        case NGHTTP2_WINDOW_UPDATE:
            countWindowUpdate()
            if header.stream_id == 0 { windowEmptySince = 0 }
        case NGHTTP2_PING:
            if header.flags & UInt8(NGHTTP2_FLAG_ACK.rawValue) != 0 {
                var id: UInt64 = 0
                withUnsafeBytes(of: frame.pointee.ping.opaque_data) { opaque in
                    withUnsafeMutableBytes(of: &id) { $0.copyMemory(from: opaque) }
                }
                events.append(.pong(id))
            } else {
                countControlFrame()
            }
        case NGHTTP2_SETTINGS:
            countControlFrame()
            if header.flags & UInt8(NGHTTP2_FLAG_ACK.rawValue) != 0 {
                sawRoundTrip(EventLoop.monotonicTime() &- settingsSentAt)
            } else if !isServer {
                events.append(.settings)
            }
        default: break
        }
    }

    func receivedEnd(_ stream: H2Stream?) {
        guard let stream else { return }
        stream.state.receivedEnd()
        events.append(.readingEnded(stream))
    }

    func streamClosed(id: Int32, code: HTTP2ErrorCode) {
        batch.newHeads[id] = nil
        guard let stream = streams.removeValue(forKey: id) else { return }
        events.append(.closed(stream, code))
    }

    // MARK: Delivery, outside of nghttp2

    private func deliver() {
        guard !batch.touched.isEmpty else { return }
        for stream in batch.touched {
            guard !isClosed else { return }
            var count = 0
            var index = stream.firstChunk
            while index >= 0 {
                let chunk = batch.chunks[Int(index)]
                batch.vectors.append(chunk.vector)
                count += chunk.vector.iov_len
                index = chunk.next
            }
            stream.firstChunk = -1
            stream.lastChunk = -1
            // Taken out, so that nothing that the reader does finds the array in use.
            var vectors = ContiguousArray<iovec>()
            swap(&vectors, &batch.vectors)
            vectors.withUnsafeBufferPointer { stream.deliver($0, count: count) }
            vectors.removeAll(keepingCapacity: true)
            swap(&vectors, &batch.vectors)
        }
        guard !isClosed else { return }
        batch.touched.removeAll(keepingCapacity: true)
        batch.chunks.removeAll(keepingCapacity: batch.chunks.capacity <= 1024)
    }
}
