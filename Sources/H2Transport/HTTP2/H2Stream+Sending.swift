import Streams

// Sending: the connection's flush asks for what goes into the next DATA frame.
extension H2Stream {
    /// What ``fill(_:)`` put into the staging buffer.
    struct Filled {
        var count: Int
        var isEnd: Bool
    }

    /// Copies or reads what there is to send into `space`. Runs inside nghttp2: calls nothing but reads of the source.
    func fill(_ space: UnsafeMutableRawBufferPointer) -> Filled? {
        guard !sending.isHeld else { return nil }
        var count = 0
        if !sending.queue.isEmpty {
            count = sending.read(into: space)
            updateUsage()
            if sending.writerWaits, let connection, sending.queue.count <= connection.configuration.sendQueue / 2 {
                sending.writerWaits = false
                connection.events.record(.writable(self))
            }
        }
        if let source = sending.source, sending.queue.isEmpty { count += fill(space, from: count, by: source) }
        let isEnd = sending.queue.isEmpty && sending.source == nil && sending.state == .finishing
        if isEnd { sending.state.sentEnd() }
        usage.progress &+= UInt64(count)
        return count > 0 || isEnd ? Filled(count: count, isEnd: isEnd) : nil
    }

    /// Reads until the frame is full or the source has nothing: END_STREAM rides with the last bytes.
    private func fill(_ space: UnsafeMutableRawBufferPointer, from start: Int, by source: ByteStream) -> Int {
        var count = start
        reading: while count < space.count && sending.sourceMayRead {
            switch source.read(into: UnsafeMutableRawBufferPointer(rebasing: space[count...])) {
            case .bytes(let length): count += length
            case .wouldBlock: sending.sourceMayRead = false
            case .end:
                sending.source = nil
                _ = sending.state.finish()
                connection?.events.record(.sourceEnded(self))
                break reading
            case .failed:
                sending.sourceMayRead = false
                connection?.events.record(.sourceFailed(self))
                break reading
            }
        }
        if count > start { sending.pump?.moved(count - start) }
        return count - start
    }

    // MARK: Told by the connection, outside of nghttp2

    func becameWritable() {
        guard phase != .released else { return }
        observer?.streamWritable(self)
    }

    func sourceEnded() {
        guard let pump = sending.pump else { return }
        sending.pump = nil
        pump.sourceEnded()
    }

    func sourceFailed() {
        guard let source = sending.source, let pump = sending.pump else { return }
        let error = source.failure ?? StreamError(.closed, "\(source.peerDescription) failed")
        sending.source = nil
        sending.pump = nil
        pump.failed(error)
    }

    /// The peer reads no more (``ResetOutcome/stopWriting``).
    func writingRefused() {
        sending.drop()
        updateUsage()
        fail(StreamError(.closed, "\(peerDescription) has ended the stream and reads no more"))
        if sending.pump != nil {
            stopPulling()
        } else if sending.wakeWriter() {
            connection?.addEvent(.writable(self))
        }
    }

    /// The source has no reader any more. Told only when the other direction has been delivered, because a relay takes
    /// `closed` as the end of both.
    func stopPulling() {
        guard receiving.state == .delivered || receiving.sink == nil, let pump = sending.pump else { return }
        sending.pump = nil
        sending.source = nil
        pump.failed(failure ?? StreamError(.closed, "\(peerDescription) reads no more"))
    }

    // MARK: Ends

    /// The frame with END_STREAM was handed to the layer below, or a refusal, which ends this side.
    func endWasSent() {
        sending.state.sentEnd()
        if phase == .released && receiving.state == .open { stopPeer() }
    }

    /// Tells the peer that what it still sends has no reader (RFC 9113 §8.1: NO_ERROR by a server that has answered).
    func stopPeer() {
        guard let connection, !wasReset else { return }
        if kind == .exchange, connection.isServer { return connection.stopLater(self) }
        wasReset = true
        connection.submitReset(self, connection.isServer ? .noError : .cancel)
    }
}
