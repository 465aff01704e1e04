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
        guard phase != .requested else { return nil }
        var count = 0
        if !outgoing.isEmpty {
            count = outgoing.read(into: space)
            updateUsage()
            if writerWaits, let connection, outgoing.count <= connection.configuration.sendQueue / 2 {
                writerWaits = false
                connection.events.record(.writable(self))
            }
        }
        if let source, outgoing.isEmpty { count += fill(space, from: count, by: source) }
        let isEnd = outgoing.isEmpty && source == nil && state.writing == .finishing
        if isEnd { state.sentEnd() }
        usage.progress &+= UInt64(count)
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
                connection?.events.record(.sourceEnded(self))
                break reading
            case .failed:
                sourceMayRead = false
                connection?.events.record(.sourceFailed(self))
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
    func stopPeer() {
        guard let connection, !wasReset else { return }
        wasReset = true
        connection.submitReset(self, connection.isServer ? .noError : .cancel)
    }
}
