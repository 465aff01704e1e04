import Streams

// What a stream costs, for the limits of its connection.
extension H2Stream {
    /// To be called after every change of a queue.
    func updateUsage() {
        guard let change = usage.update(queued: incoming.count, held: incoming.capacity + outgoing.capacity) else {
            return
        }
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
}
