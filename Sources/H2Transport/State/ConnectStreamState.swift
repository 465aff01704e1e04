import Streams

/// Which directions of a tunnel are open, as RFC 9113 §5.1 and §8.5 have it.
///
/// ```
///   reading   open ── END_STREAM ──→ ended                      writing   open ─ finish() → finishing ─ END_STREAM → finished
///     │ RST_STREAM, connection lost                               │ RST_STREAM(NO_ERROR | CANCEL) after the peer's END_STREAM
///     └────────────────────────────→ failed (both)                └──────────────────────→ refused
/// ```
struct ConnectStreamState: Hashable {
    enum Reading: Hashable {
        case open
        /// The peer sent END_STREAM: everything has arrived.
        case ended
        case failed
    }

    enum Writing: Hashable {
        case open
        /// END_STREAM follows what is queued.
        case finishing
        case finished
        /// The peer has sent everything and reads nothing more: the EPIPE of a TCP socket.
        case refused
        case failed
    }

    /// What a reset by the peer means.
    enum ResetOutcome: Hashable {
        /// Both directions were over.
        case ignored
        /// The reading side ended cleanly; nothing that is written from now on has a reader.
        case stopWriting
        /// Bytes may have been lost.
        case failed(StreamError)
    }

    private(set) var reading = Reading.open
    private(set) var writing = Writing.open

    var isWritable: Bool { writing == .open }
    /// Both directions ended without loss on this side's account.
    var isOver: Bool {
        reading != .open && (writing == .finished || writing == .refused || writing == .failed)
    }

    mutating func receivedEnd() {
        if reading == .open { reading = .ended }
    }

    /// Returns false when the direction was over before.
    mutating func finish() -> Bool {
        guard writing == .open else { return false }
        writing = .finishing
        return true
    }

    mutating func sentEnd() {
        if writing == .finishing { writing = .finished }
    }

    mutating func received(reset code: HTTP2ErrorCode) -> ResetOutcome {
        if reading == .ended {
            if code == .noError || code == .cancel {
                guard writing != .finished else { return .ignored }
                writing = .refused
                return .stopWriting
            }
            // CONNECT_ERROR after END_STREAM: the connection behind the peer was reset. Both directions were over only when
            // this side had finished too.
            guard writing != .finished else { return .ignored }
        }
        fail()
        return .failed(StreamError(.reset, "the peer reset the stream (\(code))"))
    }

    mutating func fail() {
        reading = .failed
        if writing != .finished { writing = .failed }
    }
}
