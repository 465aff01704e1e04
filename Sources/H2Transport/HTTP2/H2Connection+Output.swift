import CLinux
import CNGHTTP2
import Streams

extension H2Connection {
    /// There is something to send: it is flushed once, at the end of the loop's turn.
    func markDirty() {
        guard !isClosed, output.markDirty() else { return }
        loop.atEndOfTurn(self)
    }

    /// `stream` has bytes or its end to send.
    func wantsToSend(_ stream: H2Stream) {
        schedule(stream)
        markDirty()
    }

    /// It is asked when the connection sends the next time.
    func schedule(_ stream: H2Stream) {
        guard stream.sending.isDeferred, !stream.sending.isScheduled else { return }
        stream.sending.isScheduled = true
        schedule.appendIdle(stream)
    }

    /// Stages frames and writes them below, a full staging buffer at a time, until there is nothing more or no room
    /// below.
    func flush() {
        guard output.beginFlush(), !isClosed else { return }
        var buffers = 0
        repeat {
            // What is left of an earlier turn goes first.
            guard writeStaged() else { break }
            buffers += 1
            stage()
            guard !isClosed, writeStaged() else { break }
        } while output.isFull && buffers < OutputStaging.buffersPerTurn
        dispatch()
        guard !isClosed, !output.lowerIsFull else { return }
        if output.isFull {
            // Not at the end of this turn: the loop looks at the other sockets first.
            _ = output.markDirty()
            return loop.nextTurn(self)
        }
        if !life.isClosing, session?.wantsRead == false {
            // nghttp2 has found the connection broken and sent GOAWAY. It must be fed no more.
            input.end()
            life.gaveUp()
        }
        if life.isClosing { return finishClosing() }
        // Room below: what was not read because the peer did not read either.
        if input.resume() { scheduleInput() }
    }

    /// Writes what is staged with one call. Returns false when the layer below has no room or failed.
    private func writeStaged() -> Bool {
        let staged = output.staged
        if !staged.isEmpty {
            switch lower.write(staged) {
            case .bytes(let count):
                counters.bytesSent += UInt64(count)
                lastSent = loop.now
                output.wrote(count)
            case .wouldBlock: output.wrote(0)
            case .failed:
                lowerFailed()
                return false
            }
            if output.lowerIsFull { return false }
        }
        output.releaseEmpty()
        return true
    }

    /// Fills a staging buffer with frames.
    private func stage() {
        output.beginStaging()
        while session != nil {
            output.appendControl()
            if output.isFull { return }
            var bytes = UnsafeRawBufferPointer(start: nil, count: 0)
            isInLibrary = true
            let failure = session?.nextControl(&bytes)
            isInLibrary = false
            if let failure { return end(StreamError(.protocolViolation, "HTTP/2: \(failure)")) }
            if !bytes.isEmpty {
                output.append(control: bytes)
            } else if output.isFull {
                return
            } else if let stream = schedule.popFirst() {
                stream.sending.isScheduled = false
                stream.sending.isDeferred = false
                if stream.connection != nil { session?.resume(stream.id) }
            } else {
                return
            }
        }
    }

    // MARK: Called by nghttp2

    /// The payload that the next DATA frame may have; flow control bounds it further.
    func nextFrameLength(peerFrameSize: Int) -> Int {
        output.frameLength(limit: min(configuration.frameSize, peerFrameSize))
    }

    /// Reads the payload of a DATA frame to where it is sent from, behind the place of its header.
    func readData(of stream: H2Stream, length: Int, flags: UnsafeMutablePointer<UInt32>) -> Int {
        guard output.hasRoom() else { return Int(NGHTTP2_ERR_PAUSE.rawValue) }
        if stream.sending.sentInTurn >= SendSchedule<H2Stream>.quantum && streams.count > 1 {
            stream.sending.sentInTurn = 0
            stream.sending.isDeferred = true
            stream.sending.isScheduled = true
            schedule.appendBusy(stream)
            return Int(NGHTTP2_ERR_DEFERRED.rawValue)
        }
        guard let filled = stream.fill(output.payloadSpace(length)) else {
            stream.sending.sentInTurn = 0
            stream.sending.isDeferred = true
            return Int(NGHTTP2_ERR_DEFERRED.rawValue)
        }
        stream.sending.sentInTurn += filled.count
        flags.pointee = NGHTTP2_DATA_FLAG_NO_COPY.rawValue
        if filled.isEnd {
            flags.pointee |= NGHTTP2_DATA_FLAG_EOF.rawValue
            if let trailers = stream.trailersToSend,
                session?.submitTrailers(HeaderBlock(trailers), on: stream.id) == true
            {
                flags.pointee |= NGHTTP2_DATA_FLAG_NO_END_STREAM.rawValue
            }
        }
        return filled.count
    }

    /// The payload that `readData` has put in place gets its header.
    func commitData(header: UnsafePointer<UInt8>, length: Int) { output.commit(header: header, length: length) }

    func sentFrame(_ frame: UnsafePointer<nghttp2_frame>, _ header: nghttp2_frame_hd, stream: H2Stream?) {
        let endsStream = header.flags & UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) != 0
        switch nghttp2_frame_type(UInt32(header.type)) {
        case NGHTTP2_DATA:
            flood.sent(bytes: header.length)
            if endsStream { stream?.endWasSent() }
            peerWindow.sent(leaving: session?.peerWindow ?? 0, now: loop.now, &counters)
        case NGHTTP2_HEADERS:
            flood.sent(bytes: 0)
            // A refusal has been sent, or the trailers: now the client's upload may be stopped. Earlier, the reset
            // would have overtaken them.
            if endsStream { stream?.endWasSent() }
        case NGHTTP2_WINDOW_UPDATE:
            if header.stream_id == 0 { window.granted(Int(frame.pointee.window_update.window_size_increment)) }
        case NGHTTP2_RST_STREAM:
            let code = HTTP2ErrorCode(rawValue: frame.pointee.rst_stream.error_code)
            if let excess = flood.sentReset(code, now: loop.now, &counters) { cutOff(excess) }
        case NGHTTP2_GOAWAY:
            guard isAnnouncing else { break }
            isAnnouncing = false
            events.record(.announcedGoAway)
        default: break
        }
    }
}
