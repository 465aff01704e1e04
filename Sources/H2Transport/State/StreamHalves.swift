import Streams

// Not ``Streams/StreamEnds``, which the other byte streams have: there a direction that fails is the whole stream's
// affair. Here each direction has an end of its own in RFC 9113. A peer that resets with NO_ERROR after END_STREAM has
// said everything and only reads no more, so that the writing side is refused while the reading side stays clean; and
// what a reset means depends on both (``ResetOutcome``). A writer that waits is told from inside of nghttp2, by way of
// the connection's events, once half of the queue has left, and the reader's batch is offered before it is kept: the
// waits belong to the halves and their queues.

/// How far what the peer sends on a stream has come (RFC 9113 §5.1, §8.5).
///
/// ```
///   open ── END_STREAM ──→ ended ── its bytes were read ──→ delivered
///     └── RST_STREAM, connection lost ──→ failed
/// ```
enum ReceiveState: Hashable {
    case open
    /// The peer sent END_STREAM: everything has arrived.
    case ended
    /// The reader was told of the end.
    case delivered
    case failed

    /// END_STREAM has come, read or not.
    var hasEnded: Bool { self == .ended || self == .delivered }

    mutating func receivedEnd() {
        if self == .open { self = .ended }
    }

    mutating func deliveredEnd() {
        if self == .ended { self = .delivered }
    }

    mutating func fail() { self = .failed }
}

/// How far what this side sends has come.
///
/// ```
///   open ── finish() ──→ finishing ── END_STREAM was sent ──→ finished
///     └─────────────────────┴── RST_STREAM(NO_ERROR | CANCEL) after the peer's END_STREAM ──→ refused
/// ```
enum SendState: Hashable {
    case open
    /// END_STREAM follows what is queued.
    case finishing
    case finished
    /// The peer has sent everything and reads nothing more: the EPIPE of a TCP socket.
    case refused
    case failed

    /// Returns false when the direction was over before.
    mutating func finish() -> Bool {
        guard self == .open else { return false }
        self = .finishing
        return true
    }

    mutating func sentEnd() {
        if self == .finishing { self = .finished }
    }

    mutating func refuse() { self = .refused }

    /// What was sent was sent.
    mutating func fail() {
        if self != .finished { self = .failed }
    }
}

/// What a reset by the peer means: the one rule that knows both halves.
enum ResetOutcome: Hashable {
    /// Both directions were over.
    case ignored
    /// The reading side ended cleanly; nothing that is written from now on has a reader.
    case stopWriting
    /// Bytes may have been lost.
    case failed(StreamError)

    init(_ code: HTTP2ErrorCode, receiving: ReceiveState, sending: SendState) {
        if receiving.hasEnded {
            // CONNECT_ERROR after END_STREAM: the connection behind the peer was reset. Both directions were over only
            // when this side had finished too.
            guard sending != .finished else {
                self = .ignored
                return
            }
            if code == .noError || code == .cancel {
                self = .stopWriting
                return
            }
        }
        self = .failed(StreamError(.reset, "the peer reset the stream (\(code))"))
    }
}
