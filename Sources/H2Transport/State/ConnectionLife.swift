import Streams

/// How far a connection has come.
///
/// ```
///   open ── GOAWAY, ours or the peer's ──→ draining ── its last stream ended ──→ closing ── everything is sent ──→ closed
///     │  close(), a limit, a peer that broke the protocol ──────────────────────────↑                                ↑
///     └── the layer below is lost, a time-out, abort ────────────────────────────────────────────────────────────────┘
/// ```
struct ConnectionLife: Hashable {
    /// Why nothing is left to do but to send what is queued.
    enum Farewell: Hashable {
        /// Said by this side or by both, with no stream left.
        case agreed
        /// nghttp2 has given the connection up and says so by GOAWAY.
        case broken(wasDraining: Bool)
        /// The peer went over a limit; it is told by GOAWAY.
        case cutOff(StreamError)
    }

    enum State: Hashable {
        /// Streams can be opened. `isAnnounced`: this side has said that it will go away, and waits until the peer
        /// knows.
        case open(isAnnounced: Bool)
        /// No more streams; those that are open go on. `isAnnounced`: this side has said so itself.
        case draining(isAnnounced: Bool)
        case closing(Farewell)
        /// nil: nothing was lost.
        case closed(StreamError?)
    }

    private(set) var state = State.open(isAnnounced: false)

    var isClosed: Bool {
        if case .closed = state { true } else { false }
    }

    /// Ends when everything queued has been sent.
    var isClosing: Bool {
        if case .closing = state { true } else { false }
    }

    /// Takes no more streams. A connection that nghttp2 has just given up does not count: its streams are about to be
    /// lost.
    var isDraining: Bool {
        switch state {
        case .open: false
        case .closing(.broken(let wasDraining)): wasDraining
        case .draining, .closing, .closed: true
        }
    }

    /// Why it ended; nil also while it lives, and when it ended cleanly.
    var failure: StreamError? {
        if case .closed(let reason) = state { reason } else { nil }
    }

    // MARK: Events

    /// This side starts to drain. Returns false when it has said so before, or there is nobody to tell.
    mutating func announce() -> Bool {
        switch state {
        case .open(isAnnounced: false): state = .open(isAnnounced: true)
        case .draining(isAnnounced: false): state = .draining(isAnnounced: true)
        case .open, .draining, .closing, .closed: return false
        }
        return true
    }

    /// From now on no stream is taken: this side's final GOAWAY.
    mutating func stopTakingStreams() {
        switch state {
        case .open, .draining: state = .draining(isAnnounced: true)
        case .closing, .closed: break
        }
    }

    /// The peer's GOAWAY, or no identifier is left for a stream. Returns whether that is news.
    mutating func refusedMoreStreams() -> Bool {
        switch state {
        case .open(let isAnnounced): state = .draining(isAnnounced: isAnnounced)
        case .closing(.broken(wasDraining: false)): state = .closing(.broken(wasDraining: true))
        case .draining, .closing, .closed: return false
        }
        return true
    }

    /// No stream is left. Returns whether the connection may end now.
    mutating func becameIdle() -> Bool {
        switch state {
        case .draining: state = .closing(.agreed)
        case .closing where isDraining: break
        case .open, .closing, .closed: return false
        }
        return true
    }

    /// The owner closes a connection without streams.
    mutating func close() {
        switch state {
        case .open, .draining: state = .closing(.agreed)
        case .closing(.broken): state = .closing(.broken(wasDraining: true))
        case .closing, .closed: break
        }
    }

    /// The peer went over a limit. Returns false when the connection is on its way out already.
    mutating func cutOff(_ reason: StreamError) -> Bool {
        switch state {
        case .open, .draining: state = .closing(.cutOff(reason))
        case .closing, .closed: return false
        }
        return true
    }

    /// nghttp2 takes no more input.
    mutating func gaveUp() {
        switch state {
        case .open: state = .closing(.broken(wasDraining: false))
        case .draining: state = .closing(.broken(wasDraining: true))
        case .closing, .closed: break
        }
    }

    /// Returns false when it had ended before.
    mutating func end(_ reason: StreamError?) -> Bool {
        guard !isClosed else { return false }
        state = .closed(reason)
        return true
    }

    // MARK: Reasons

    /// Why it ends, when everything has been sent, GOAWAY included; nil: nothing was lost.
    func reasonWhenFlushed(hasStreams: Bool, peer: @autoclosure () -> String) -> StreamError? {
        switch state {
        case .closing(.cutOff(let reason)): return reason
        case .closing(.broken(let wasDraining)) where !wasDraining || hasStreams:
            return StreamError(.protocolViolation, "\(peer()) broke the rules of HTTP/2; the connection was closed")
        case .open, .draining, .closing, .closed: return nil
        }
    }

    /// Why it ends, when the layer below fails with `error`. Where both sides have said goodbye and no stream is open,
    /// nothing can have been lost.
    func reasonWhenLost(hasStreams: Bool, _ error: StreamError) -> StreamError? {
        if case .closing(.cutOff(let reason)) = state { return reason }
        return isDraining && !hasStreams ? nil : error
    }
}

/// How long a connection may drain, and who waits for its end.
struct DrainDeadline {
    /// Monotonic, in nanoseconds.
    private var time = UInt64.max
    private var completions: [() -> Void] = []

    /// Returns false where less time was given before.
    mutating func shorten(to deadline: UInt64) -> Bool {
        guard deadline < time else { return false }
        time = deadline
        return true
    }

    mutating func add(_ completion: @escaping () -> Void) { completions.append(completion) }

    /// Who is to be told of the end, in the order they asked.
    mutating func takeCompletions() -> [() -> Void] {
        defer { completions = [] }
        return completions
    }
}
