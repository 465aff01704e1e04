import Streams

/// PINGs on their way, and who waits for them.
struct PingQueue {
    struct Entry {
        var id: UInt64
        var sentAt: UInt64
        /// Any byte of the peer's will do, not only the answer.
        var acceptsAnyByte: Bool
        var timer: LoopTimer?
        var completion: (Result<Duration, StreamError>) -> Void
    }

    private var entries: ContiguousArray<Entry> = []
    private var lastID: UInt64 = 0
    /// The last probe that another byte has answered: its own answer still comes, and measures the way. No more are
    /// remembered, for a peer that answers none.
    private var answered: (id: UInt64, sentAt: UInt64)?

    var isEmpty: Bool { entries.isEmpty }
    var hasProbe: Bool { entries.contains(where: \.acceptsAnyByte) }

    mutating func nextID() -> UInt64 {
        lastID += 1
        return lastID
    }

    mutating func append(_ entry: Entry) { entries.append(entry) }

    /// Takes out the entry with this identifier.
    mutating func take(_ id: UInt64) -> Entry? {
        guard let index = entries.firstIndex(where: { $0.id == id }) else { return nil }
        let entry = entries.remove(at: index)
        entry.timer?.cancel()
        return entry
    }

    /// Takes out an entry for which any byte is an answer.
    mutating func takeProbe() -> Entry? {
        guard let index = entries.firstIndex(where: \.acceptsAnyByte) else { return nil }
        answered = (entries[index].id, entries[index].sentAt)
        return take(entries[index].id)
    }

    /// The answer to a probe that needed it no more: when it was sent, once.
    mutating func takeAnswered(_ id: UInt64) -> UInt64? {
        guard let answered, answered.id == id else { return nil }
        self.answered = nil
        return answered.sentAt
    }

    /// Takes out all entries.
    mutating func takeAll() -> ContiguousArray<Entry> {
        defer { entries = [] }
        for entry in entries { entry.timer?.cancel() }
        return entries
    }
}
