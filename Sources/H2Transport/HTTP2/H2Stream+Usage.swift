import Streams

// What a stream costs, for the limits of its connection.
extension H2Stream {
    struct Usage {
        /// Bytes received and not yet taken.
        var queued = 0
        /// Memory of both queues.
        var held = 0
        /// Bytes that left in either direction.
        var progress: UInt64 = 0
        /// ``progress`` when the connection last looked.
        var sample: UInt64 = 0
        /// When the connection first saw bytes wait here without progress, on the loop's clock; 0 while there is some.
        var stalledSince: UInt64 = 0
    }

    /// To be called after every change of a queue.
    func updateUsage() {
        let queued = incoming.count
        let held = incoming.capacity + outgoing.capacity
        guard queued != usage.queued || held != usage.held else { return }
        let change = (queued: queued - usage.queued, held: held - usage.held)
        usage.queued = queued
        usage.held = held
        account.account(for: self, queued: change.queued, held: change.held)
    }

    /// Bytes or an end wait here for someone who does not take them.
    var hasToMove: Bool {
        guard phase != .requested else { return false }
        if !incoming.isEmpty { return true }
        guard connection != nil, !wasReset else { return false }
        if !outgoing.isEmpty { return true }
        // nghttp2 has been told that there is something, and does not ask for it: the peer's window is used up.
        return !isDeferred && (source != nil && sourceMayRead || state.writing == .finishing)
    }

    /// Whether nothing has left since the last call of this.
    func takeSample() -> Bool {
        defer { usage.sample = usage.progress }
        return usage.sample == usage.progress
    }
}
