/// Why a signaling conversation ended before its purpose was reached.
public struct SignalError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The same words go over the wire as `code` of an `error` message; one that is not known here is kept as it came.
    public struct Code: Hashable, Sendable, CustomStringConvertible, RawRepresentable {
        public var rawValue: String
        public init(rawValue: String) { self.rawValue = rawValue }
        public var description: String { rawValue }

        /// A frame is longer than 1 MiB.
        public static let tooLong = Code(rawValue: "too-long")
        /// The channel ended inside a frame, or before the conversation was over.
        public static let truncated = Code(rawValue: "truncated")
        /// A frame is no JSON object with a `type`, or a field is missing or of the wrong type.
        public static let malformed = Code(rawValue: "malformed")
        /// A message that has no place in this state.
        public static let unexpected = Code(rawValue: "unexpected")
        /// No protocol version in common, or a capability that is needed is missing.
        public static let version = Code(rawValue: "version")
        /// The certificate would not be valid by the device's clock.
        public static let clock = Code(rawValue: "clock")
        /// No message in time.
        public static let timedOut = Code(rawValue: "timed-out")
        /// Key, request or credential could not be made, signed or stored.
        public static let credential = Code(rawValue: "credential")
        /// The node could not be started, or did not come up.
        public static let node = Code(rawValue: "node")
        /// The operator or the device does not want to.
        public static let refused = Code(rawValue: "refused")
    }

    public var code: Code
    public var message: String
    /// Whether the other side reported it.
    public var isFromPeer: Bool

    public init(_ code: Code, _ message: String, isFromPeer: Bool = false) {
        self.code = code
        self.message = message
        self.isFromPeer = isFromPeer
    }

    public var description: String { message }
}
