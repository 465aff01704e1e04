/// Which stream sends next. A stream that has been idle goes before those that keep the connection busy, so that a keystroke
/// waits for no more than what is staged already; within each class the order is round robin. (The idea is that of
/// FQ-CoDel, RFC 8290 §4.2; nghttp2's own order would send one stream to its end first.)
struct SendSchedule {
    /// What a stream may send before others have their turn: one frame.
    static let quantum = 65536

    private var idle = Ring()
    private var busy = Ring()

    var isEmpty: Bool { idle.isEmpty && busy.isEmpty }

    /// The stream had nothing to send before.
    mutating func appendIdle(_ stream: H2Stream) {
        stream.isScheduled = true
        idle.append(stream)
    }

    /// The stream has used up its quantum.
    mutating func appendBusy(_ stream: H2Stream) {
        stream.isScheduled = true
        busy.append(stream)
    }

    mutating func popFirst() -> H2Stream? {
        guard let stream = idle.popFirst() ?? busy.popFirst() else { return nil }
        stream.isScheduled = false
        return stream
    }

    mutating func removeAll() {
        while let stream = popFirst() { stream.isScheduled = false }
    }

    private struct Ring {
        private var streams: ContiguousArray<H2Stream> = []
        private var first = 0

        var isEmpty: Bool { first == streams.count }

        mutating func append(_ stream: H2Stream) {
            // Half of it consumed: close the gap, so that the ring stays as small as what waits in it.
            if first > 32 && first * 2 > streams.count {
                streams.removeFirst(first)
                first = 0
            }
            streams.append(stream)
        }

        mutating func popFirst() -> H2Stream? {
            guard first < streams.count else { return nil }
            let stream = streams[first]
            first += 1
            if first == streams.count {
                // Nothing of an idle connection stays allocated beyond a few entries.
                streams.removeAll(keepingCapacity: streams.capacity <= 64)
                first = 0
            }
            return stream
        }
    }
}
