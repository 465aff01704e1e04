import Streams

/// An error code of HTTP/2 (RFC 9113 §7).
struct HTTP2ErrorCode: RawRepresentable, Hashable, CustomStringConvertible {
    var rawValue: UInt32

    static let noError = HTTP2ErrorCode(rawValue: 0)
    static let protocolError = HTTP2ErrorCode(rawValue: 1)
    static let internalError = HTTP2ErrorCode(rawValue: 2)
    static let flowControlError = HTTP2ErrorCode(rawValue: 3)
    static let streamClosed = HTTP2ErrorCode(rawValue: 5)
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

    /// How the abort of an exchange is told to the peer.
    init(forExchange reason: StreamError, isServer: Bool) {
        switch reason.code {
        case .limit: self = .enhanceYourCalm
        case .badRequest: self = isServer ? .protocolError : .cancel
        case .draining: self = .cancel
        default: self = isServer && reason.code != .closed ? .internalError : .cancel
        }
    }

    init(rawValue: UInt32) { self.rawValue = rawValue }
}
