import Streams

/// Requests that wait for their answer. All have the same time, so the oldest is the first to run out of it.
struct RequestDeadlines {
    enum Next: Hashable {
        /// The oldest has this long left.
        case wait(Duration)
        /// The oldest, by its stream identifier, is too late.
        case expired(Int32)
    }

    private let timeout: Duration
    /// In the order they were sent, from ``first`` on.
    private var requests: ContiguousArray<(id: Int32, sentAt: UInt64)> = []
    private var first = 0

    init(timeout: Duration) {
        self.timeout = timeout
    }

    /// - Parameters:
    ///   - id: The stream's identifier.
    ///   - now: When it was sent, on the loop's clock.
    ///   - isWaiting: Whether a request still waits; asked for the oldest ones, so that the list stays as short as what
    ///     is really awaited.
    mutating func append(_ id: Int32, now: UInt64, isWaiting: (Int32) -> Bool) {
        forgetAnswered(isWaiting)
        requests.append((id, now))
    }

    /// What the oldest request that still waits has left; nil without one.
    mutating func next(now: UInt64, isWaiting: (Int32) -> Bool) -> Next? {
        forgetAnswered(isWaiting)
        guard first < requests.count else { return nil }
        let (id, sentAt) = requests[first]
        let left = timeout - .nanoseconds(Int64(clamping: now &- sentAt))
        return left <= .zero ? .expired(id) : .wait(left)
    }

    mutating func removeAll() {
        requests.removeAll()
        first = 0
    }

    private mutating func forgetAnswered(_ isWaiting: (Int32) -> Bool) {
        while first < requests.count, !isWaiting(requests[first].id) { first += 1 }
        if first == requests.count {
            requests.removeAll(keepingCapacity: requests.capacity <= 1024)
            first = 0
        } else if first >= 1024 {
            requests.removeFirst(first)
            first = 0
        }
    }
}
