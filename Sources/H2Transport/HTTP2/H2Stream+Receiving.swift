import CLinux
import Streams

// Receiving: the connection hands over a batch, then the end.
extension H2Stream {
    /// The bytes of one batch; what nobody takes is kept.
    func deliver(_ vectors: UnsafeBufferPointer<iovec>, count: Int) {
        if phase == .released { return credit(count) }
        if let sink = receiving.sink, receiving.queue.isEmpty, !sink.isFull {
            let taken = push(vectors, count: count, to: sink)
            if receiving.sink?.hasFailed == true {
                sinkFailed()
            } else if taken < count {
                receiving.keep(vectors, from: taken)
                updateUsage()
            }
        } else if receiving.sink == nil && receiving.queue.isEmpty && receiving.readerWaits && phase == .open,
            let observer
        {
            receiving.offer(vectors)
            observer.streamReadable(self)
            let isOver = phase == .released || receiving.state == .failed
            let left = receiving.endOffer(keeps: !isOver)
            if isOver {
                credit(left)
            } else if left > 0 {
                updateUsage()
            }
        } else {
            receiving.keep(vectors, from: 0)
            updateUsage()
            tellReader()
        }
    }

    /// END_STREAM has arrived, or a failure: whoever waits for bytes learns it.
    func readingEnded() {
        if receiving.sink != nil {
            drain()
        } else {
            tellReader()
        }
    }

    /// Writes a batch to the sink; returns how much was taken.
    private func push(_ vectors: UnsafeBufferPointer<iovec>, count: Int, to sink: ReceivingHalf.Sink) -> Int {
        switch sink.stream.write(vectors) {
        case .bytes(let taken):
            if taken < count { receiving.sink?.isFull = true }
            credit(taken)
            sink.pump.moved(taken)
            return taken
        case .wouldBlock:
            receiving.sink?.isFull = true
            return 0
        case .failed:
            receiving.sink?.hasFailed = true
            return 0
        }
    }

    private func sinkFailed() {
        guard let sink = receiving.sink else { return }
        receiving.sink = nil
        sink.pump.failed(
            sink.stream.failure ?? StreamError(.closed, "\(sink.stream.peerDescription) failed")
        )
    }

    /// Pushes what is queued, and the end behind it.
    func drain() {
        while let sink = receiving.sink, !sink.isFull, !sink.hasFailed, !receiving.queue.isEmpty {
            let taken = receiving.queue.withVectors { vectors in
                var offered = 0
                for vector in vectors { offered += vector.iov_len }
                return push(vectors, count: offered, to: sink)
            }
            receiving.consume(taken)
            updateUsage()
        }
        if receiving.sink?.hasFailed == true { return sinkFailed() }
        guard let sink = receiving.sink, receiving.isEmpty, phase != .released else { return }
        switch receiving.state {
        case .open: return
        case .ended, .delivered:
            receiving.sink = nil
            receiving.state.deliveredEnd()
            sink.stream.finish()
            sink.pump.sourceEnded()
            if sending.state == .refused { stopPulling() }
        case .failed:
            receiving.sink = nil
            sink.pump.failed(failure ?? StreamError(.reset, "the stream to \(peerDescription) failed"))
        }
    }

    private func tellReader() {
        guard receiving.sink == nil, phase == .open, receiving.wakeReader() else { return }
        observer?.streamReadable(self)
    }

    /// Bytes have left: the peer may send as many more. It is told when that is worth a frame.
    func credit(_ count: Int) {
        usage.progress &+= UInt64(count)
        guard let connection else { return }
        let credit = receiving.credit(count, roundTrip: connection.roundTrip.smallest)
        if credit > 0 { connection.creditStream(self, credit) }
    }

    func failedReading() -> ReadResult {
        fail(StreamError(.closed, "the stream to \(peerDescription) was closed"))
        return .failed
    }
}
