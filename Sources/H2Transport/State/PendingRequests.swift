/// Requests that wait for their answer. Those for one destination are handed on up to a limit, and the others of them
/// wait here: a destination that does not answer holds up nobody but those who ask for it.
struct PendingRequests<Destination: Hashable, Request: AnyObject> {
    /// Of all destinations, those that wait here included.
    private(set) var count = 0
    /// Those that were handed on, but for ``recent``.
    private var handed: [Destination: Int] = [:]
    /// The destination of the last request, which most of the next ones are for: nothing is hashed for it.
    private var recent: (destination: Destination, handed: Int)?
    private var waiting: [Destination: ContiguousArray<Request>] = [:]
    /// A place has become free, and somebody waits for it.
    private var ready: ContiguousArray<Destination> = []

    /// Returns whether the request is to be handed on now; else ``next()`` brings it later.
    mutating func add(_ request: Request, to destination: Destination, limit: Int) -> Bool {
        count += 1
        remember(destination)
        let handed = recent?.handed ?? 0
        // Whoever waits comes first.
        if handed >= limit || !waiting.isEmpty && waiting[destination] != nil {
            waiting[destination, default: []].append(request)
            return false
        }
        recent?.handed = handed + 1
        return true
    }

    /// Makes `destination` the recent one.
    private mutating func remember(_ destination: Destination) {
        if let recent {
            if recent.destination == destination { return }
            if recent.handed > 0 { handed[recent.destination] = recent.handed }
        }
        recent = (destination, handed.removeValue(forKey: destination) ?? 0)
    }

    /// One that was handed on has its answer, or needs none any more. Returns whether another one takes its place.
    mutating func end(to destination: Destination) -> Bool {
        if let recent, recent.destination == destination {
            guard recent.handed > 0 else { return false }
            self.recent?.handed = recent.handed - 1
        } else {
            guard let index = handed.index(forKey: destination) else { return false }
            if handed.values[index] > 1 { handed.values[index] -= 1 } else { handed.remove(at: index) }
        }
        count -= 1
        guard !waiting.isEmpty, waiting[destination] != nil else { return false }
        ready.append(destination)
        return true
    }

    /// One that waits here needs no answer any more.
    mutating func withdraw(_ request: Request, to destination: Destination) {
        guard var queue = waiting[destination], let index = queue.firstIndex(where: { $0 === request }) else { return }
        waiting[destination] = nil
        queue.remove(at: index)
        count -= 1
        if !queue.isEmpty { waiting[destination] = queue }
    }

    /// The next one that is to be handed on.
    mutating func next() -> Request? {
        while let destination = ready.popLast() {
            guard var queue = waiting[destination] else { continue }
            waiting[destination] = nil
            let request = queue.removeFirst()
            if !queue.isEmpty { waiting[destination] = queue }
            remember(destination)
            recent?.handed += 1
            return request
        }
        return nil
    }

    /// Those that wait here are forgotten.
    mutating func removeWaiting() {
        count -= waiting.values.reduce(0) { $0 + $1.count }
        waiting = [:]
        ready = []
    }
}
