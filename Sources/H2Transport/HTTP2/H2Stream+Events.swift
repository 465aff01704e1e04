import CLinux
import Streams

// What the connection tells a stream, outside of nghttp2: bytes, ends, failures, room.
extension H2Stream {
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
            batch = BatchReader(vectors: vectors)
            readerWaits = false
            observer.streamReadable(self)
            if phase == .released || state.reading == .failed {
                credit(batch.count)
            } else if batch.count > 0 {
                batch.append(to: &incoming)
                updateUsage()
            }
            batch = BatchReader()
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
        updateUsage()
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
        if phase != .released && state.writing == .finishing { state.fail() }
        self.connection = nil
        connection.detached(self)
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
    func drain() {
        while let sink, !sinkIsFull, !sinkHasFailed, !incoming.isEmpty {
            let taken = incoming.withVectors { vectors in
                var offered = 0
                for vector in vectors { offered += vector.iov_len }
                return push(vectors, count: offered, to: sink)
            }
            incoming.consume(taken)
            updateUsage()
        }
        if sinkHasFailed { return sinkFailed() }
        guard let sink, let pump = pushPump, incoming.isEmpty, chunks.isEmpty, phase != .released else { return }
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
        updateUsage()
    }

    /// Bytes have left: the peer may send as many more. It is told when that is worth a frame.
    func credit(_ count: Int) {
        usage.progress &+= UInt64(count)
        guard let connection else { return }
        uncredited += count
        if uncredited >= window.leastCredit(roundTrip: connection.roundTrip.smallest) {
            connection.creditStream(self, uncredited)
            uncredited = 0
        }
    }

    /// The owner lets go: nothing that arrives is kept.
    func release() {
        phase = .released
        let unread = incoming.count + batch.count
        incoming.removeAll()
        updateUsage()
        batch = BatchReader()
        source = nil
        sink = nil
        pushPump = nil
        pullPump = nil
        completion = nil
        if unread > 0 { credit(unread) }
    }

    func dropQueues() {
        incoming.removeAll()
        outgoing.removeAll()
        updateUsage()
    }

    func failedReading() -> ReadResult {
        fail(StreamError(.closed, "the stream to \(peerDescription) was closed"))
        return .failed
    }
}
