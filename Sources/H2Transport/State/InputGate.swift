/// Whether the layer below is read.
///
/// ```
///   open ⇄ paused (the peer does not take what it has asked for)      open, paused ──→ ended ──→ ended below
/// ```
struct InputGate: Hashable {
    enum State: Hashable {
        case open
        /// Too much waits to be sent.
        case paused
        /// Nothing more is fed to nghttp2: it has terminated the session.
        case ended
        /// The peer has closed its side of the layer below.
        case endedBelow
    }

    /// A connection reads at most this many batches of 256 KiB before the others on its loop have a turn.
    static var batchesPerTurn: Int { 4 }

    private(set) var state = State.open
    /// The loop will come back to read on.
    private var isScheduled = false

    var isOpen: Bool { state == .open }

    /// Returns whether the loop has to be asked for a turn.
    mutating func schedule() -> Bool {
        defer { isScheduled = true }
        return !isScheduled
    }

    /// Returns whether a turn was asked for; it is taken.
    mutating func takeTurn() -> Bool {
        defer { isScheduled = false }
        return isScheduled
    }

    /// Returns false when it is not open.
    mutating func pause() -> Bool {
        guard state == .open else { return false }
        state = .paused
        return true
    }

    /// There is room below again. Returns whether reading goes on.
    mutating func resume() -> Bool {
        guard state == .paused else { return false }
        state = .open
        return true
    }

    mutating func end() {
        if state != .endedBelow { state = .ended }
    }

    mutating func endBelow() { state = .endedBelow }
}
