import CLinux
import CNGHTTP2
import Streams

extension H2Connection {
    /// A connection sends at most this many staging buffers of 256 KiB before the others on its loop have a turn.
    private static var stagingsPerTurn: Int { 4 }
    private static var frameHeaderLength: Int { 9 }
    /// Room in the staging buffer that is not worth another DATA frame.
    private static var leastRoom: Int { 512 }

    /// There is something to send: it is flushed once, at the end of the loop's turn.
    func markDirty() {
        guard !isDirty, !isClosed else { return }
        isDirty = true
        loop.atEndOfTurn(self)
    }

    /// `stream` has bytes or its end to send.
    func wantsToSend(_ stream: H2Stream) {
        if stream.isDeferred && !stream.isScheduled { schedule.appendIdle(stream) }
        markDirty()
    }

    /// Stages frames and writes them below, a full staging buffer at a time, until there is nothing more or no room below.
    func flush() {
        isDirty = false
        guard !isClosed, !lowerIsFull else { return }
        var stagings = 0
        repeat {
            // What is left of an earlier turn goes first.
            guard writeStaging() else { break }
            stagings += 1
            stage()
            guard !isClosed, writeStaging() else { break }
        } while stagingIsFull && stagings < Self.stagingsPerTurn
        dispatch()
        guard !isClosed else { return }
        if lowerIsFull { return }
        if stagingIsFull {
            // Not at the end of this turn: the loop looks at the other sockets first.
            isDirty = true
            return loop.nextTurn(self)
        }
        if let nghttp2, !closesWhenFlushed, nghttp2_session_want_read(nghttp2) == 0 {
            // nghttp2 has found the connection broken and sent GOAWAY. It must be fed no more.
            inputHasEnded = true
            closesWhenFlushed = true
        }
        if closesWhenFlushed { return finishClosing() }
        resumeInput()
    }

    /// Writes what is staged with one call. Returns false when the layer below has no room or failed.
    private func writeStaging() -> Bool {
        guard let buffer = staging else { return true }
        if buffer.readableBytes > 0 {
            switch lower.write(buffer.readable) {
            case .bytes(let count):
                counters.bytesSent += UInt64(count)
                lastSent = loop.now
                buffer.readIndex += count
                lowerIsFull = buffer.readableBytes > 0
            case .wouldBlock: lowerIsFull = true
            case .failed:
                lowerFailed()
                return false
            }
            if lowerIsFull { return false }
        }
        staging = nil
        loop.buffers.give(buffer)
        return true
    }

    /// Fills a staging buffer with frames.
    private func stage() {
        stagingIsFull = false
        guard let nghttp2 else { return }
        while true {
            copyControl()
            if stagingIsFull { return }
            var bytes: UnsafePointer<UInt8>?
            isInLibrary = true
            let count = nghttp2_session_mem_send(nghttp2, &bytes)
            isInLibrary = false
            if count < 0 {
                return end(
                    StreamError(.protocolViolation, "HTTP/2: \(String(cString: nghttp2_strerror(Int32(count))))")
                )
            }
            if count > 0 {
                unsentControl = UnsafeRawBufferPointer(start: bytes, count: count)
            } else if stagingIsFull {
                return
            } else if let stream = schedule.popFirst() {
                stream.isDeferred = false
                if stream.connection != nil { _ = nghttp2_session_resume_data(nghttp2, stream.id) }
            } else {
                return
            }
        }
    }

    private func stagingBuffer() -> Buffer {
        if let staging { return staging }
        let buffer = loop.buffers.take(.large)
        staging = buffer
        return buffer
    }

    /// A control frame is copied; where it does not fit, its rest goes into the next staging buffer.
    private func copyControl() {
        guard let source = unsentControl.baseAddress, !unsentControl.isEmpty else { return }
        let buffer = stagingBuffer()
        let count = min(unsentControl.count, buffer.writableBytes)
        (buffer.base + buffer.writeIndex).copyMemory(from: source, byteCount: count)
        buffer.writeIndex += count
        unsentControl = UnsafeRawBufferPointer(rebasing: unsentControl[count...])
        if !unsentControl.isEmpty { stagingIsFull = true }
    }

    // MARK: Called by nghttp2

    /// The payload that the next DATA frame may have; flow control bounds it further.
    func nextFrameLength(peerFrameSize: Int) -> Int {
        let room = (staging?.writableBytes ?? BufferSize.large.rawValue) - Self.frameHeaderLength
        // At least one, which nghttp2 insists on; `readData` looks at the room again.
        return max(1, min(configuration.frameSize, peerFrameSize, room))
    }

    /// Reads the payload of a DATA frame to where it is sent from, behind the place of its header.
    func readData(of stream: H2Stream, length: Int, flags: UnsafeMutablePointer<UInt32>) -> Int {
        if let staging, staging.writableBytes < Self.leastRoom {
            stagingIsFull = true
            return Int(NGHTTP2_ERR_PAUSE.rawValue)
        }
        if stream.sentInTurn >= SendSchedule.quantum && streams.count > 1 {
            stream.sentInTurn = 0
            stream.isDeferred = true
            schedule.appendBusy(stream)
            return Int(NGHTTP2_ERR_DEFERRED.rawValue)
        }
        let buffer = stagingBuffer()
        let space = UnsafeMutableRawBufferPointer(
            start: buffer.base + buffer.writeIndex + Self.frameHeaderLength,
            count: length
        )
        guard let filled = stream.fill(space) else {
            stream.sentInTurn = 0
            stream.isDeferred = true
            return Int(NGHTTP2_ERR_DEFERRED.rawValue)
        }
        stream.sentInTurn += filled.count
        flags.pointee = NGHTTP2_DATA_FLAG_NO_COPY.rawValue
        if filled.isEnd { flags.pointee |= NGHTTP2_DATA_FLAG_EOF.rawValue }
        return filled.count
    }

    /// The payload that `readData` has put in place gets its header.
    func commitData(header: UnsafePointer<UInt8>, length: Int) {
        let buffer = stagingBuffer()
        (buffer.base + buffer.writeIndex).copyMemory(from: header, byteCount: Self.frameHeaderLength)
        buffer.writeIndex += Self.frameHeaderLength + length
    }

    func sentFrame(_ frame: UnsafePointer<nghttp2_frame>, _ header: nghttp2_frame_hd, stream: H2Stream?) {
        let endsStream = header.flags & UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) != 0
        switch nghttp2_frame_type(UInt32(header.type)) {
        case NGHTTP2_DATA:
            expectWindowUpdates(forBytes: header.length)
            if endsStream { stream?.endWasSent() }
            if windowEmptySince == 0, nghttp2_session_get_remote_window_size(nghttp2) <= 0 {
                windowEmptySince = loop.now
                counters.sendWindowStalls += 1
            }
        case NGHTTP2_HEADERS:
            expectWindowUpdates(forBytes: 0)
            // A refusal has been sent: now the client's upload may be stopped. Earlier, the reset would have overtaken it.
            if endsStream && isServer, let stream { stream.refusalWasSent() }
        case NGHTTP2_RST_STREAM:
            counters.resetsSent += 1
            if ownResets > 0 {
                ownResets -= 1
            } else {
                countProvokedReset(frame.pointee.rst_stream.error_code)
            }
        default: break
        }
    }
}
