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

/// An error code of HTTP/2 (RFC 9113 §7).
struct HTTP2ErrorCode: RawRepresentable, Hashable, CustomStringConvertible {
    var rawValue: UInt32

    static let noError = HTTP2ErrorCode(rawValue: 0)
    static let protocolError = HTTP2ErrorCode(rawValue: 1)
    static let internalError = HTTP2ErrorCode(rawValue: 2)
    static let flowControlError = HTTP2ErrorCode(rawValue: 3)
    static let refusedStream = HTTP2ErrorCode(rawValue: 7)
    static let cancel = HTTP2ErrorCode(rawValue: 8)
    static let connectError = HTTP2ErrorCode(rawValue: 10)
    static let enhanceYourCalm = HTTP2ErrorCode(rawValue: 11)

    private static let names = [
        "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
        "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
    ]

    var description: String {
        rawValue < Self.names.count ? Self.names[Int(rawValue)] : "error code \(rawValue)"
    }

    /// How a tunnel's abort is told to the peer: a TCP reset is CONNECT_ERROR (RFC 9113 §8.5).
    init(for reason: StreamError) {
        switch reason.code {
        case .closed, .cancelled: self = .cancel
        case .protocolViolation: self = .protocolError
        case .limit: self = .enhanceYourCalm
        default: self = .connectError
        }
    }

    init(rawValue: UInt32) { self.rawValue = rawValue }
}
