/// Which stream sends next. A stream that has been idle goes before those that keep the connection busy, so that a
/// keystroke waits for no more than what is staged already; within each class the order is round robin. (The idea is
/// that of FQ-CoDel, RFC 8290 §4.2; nghttp2's own order would send one stream to its end first.)
struct SendSchedule<Stream> {
    /// What a stream may send before others have their turn, in bytes: one frame.
    static var quantum: Int { 65536 }

    private var idle = Ring()
    private var busy = Ring()

    var isEmpty: Bool { idle.isEmpty && busy.isEmpty }

    /// The stream had nothing to send before.
    mutating func appendIdle(_ stream: Stream) {
        idle.append(stream)
    }

    /// The stream has used up its quantum.
    mutating func appendBusy(_ stream: Stream) {
        busy.append(stream)
    }

    mutating func popFirst() -> Stream? { idle.popFirst() ?? busy.popFirst() }

    /// Empties it; `body` is called with each stream that waited.
    mutating func removeAll(_ body: (Stream) -> Void) {
        while let stream = popFirst() { body(stream) }
    }

    private struct Ring {
        private var streams: ContiguousArray<Stream> = []
        private var first = 0

        var isEmpty: Bool { first == streams.count }

        mutating func append(_ stream: Stream) {
            // Half of it consumed: close the gap, so that the ring stays as small as what waits in it.
            if first > 32 && first * 2 > streams.count {
                streams.removeFirst(first)
                first = 0
            }
            streams.append(stream)
        }

        mutating func popFirst() -> Stream? {
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
