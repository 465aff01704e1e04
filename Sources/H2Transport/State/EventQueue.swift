/// What nghttp2's callbacks have found, until it may be acted on: after nghttp2 has returned, and never from inside a
/// method of the connection.
struct EventQueue<Event> {
    private var events: ContiguousArray<Event> = []
    private var next = 0
    private var isBeingServed = false
    private var isScheduled = false

    /// Adds an event from inside of nghttp2: its caller serves the queue.
    mutating func record(_ event: Event) { events.append(event) }

    /// Adds an event. Returns whether the loop has to be asked for a turn, because nobody is about to serve the queue.
    mutating func add(_ event: Event, isInLibrary: Bool) -> Bool {
        events.append(event)
        guard !isInLibrary, !isBeingServed, !isScheduled else { return false }
        isScheduled = true
        return true
    }

    /// Returns whether a turn was asked for; it is taken.
    mutating func takeTurn() -> Bool {
        defer { isScheduled = false }
        return isScheduled
    }

    /// Returns false when somebody serves it already.
    mutating func begin() -> Bool {
        defer { isBeingServed = true }
        return !isBeingServed
    }

    /// The next event; nil at the end, where ``finish()`` has to follow.
    mutating func popFirst() -> Event? {
        guard next < events.count else { return nil }
        defer { next += 1 }
        return events[next]
    }

    mutating func finish() {
        isBeingServed = false
        guard !events.isEmpty else { return }
        next = 0
        events.removeAll(keepingCapacity: events.capacity <= 64)
    }

    mutating func removeAll() {
        next = 0
        events.removeAll()
    }
}
