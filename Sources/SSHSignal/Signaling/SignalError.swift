/// Why a signaling conversation ended before its purpose was reached.
package struct SignalError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The same words go over the wire as `code` of an `error` message; one that is not known here is kept as it came.
    package struct Code: Hashable, Sendable, CustomStringConvertible, RawRepresentable {
        package var rawValue: String
        package init(rawValue: String) { self.rawValue = rawValue }
        package var description: String { rawValue }

        /// A frame is longer than 1 MiB.
        package static let tooLong = Code(rawValue: "too-long")
        /// More messages or bytes than one conversation may have.
        package static let tooMuch = Code(rawValue: "too-much")
        /// The channel ended inside a frame, or before the conversation was over.
        package static let truncated = Code(rawValue: "truncated")
        /// A frame is no JSON object with a `type`, or a field is missing or of the wrong type.
        package static let malformed = Code(rawValue: "malformed")
        /// A message that has no place in this state.
        package static let unexpected = Code(rawValue: "unexpected")
        /// No protocol version in common, or a capability that is needed is missing.
        package static let version = Code(rawValue: "version")
        /// The certificate would not be valid by the device's clock.
        package static let clock = Code(rawValue: "clock")
        /// No message in time.
        package static let timedOut = Code(rawValue: "timed-out")
        /// Key, request or credential could not be made, signed or stored.
        package static let credential = Code(rawValue: "credential")
        /// The node could not be started, or did not come up.
        package static let node = Code(rawValue: "node")
        /// The operator or the device does not want to.
        package static let refused = Code(rawValue: "refused")
        /// The device is revoked.
        package static let revoked = Code(rawValue: "revoked")
    }

    package var code: Code
    package var message: String
    /// Whether the other side reported it.
    package var isFromPeer: Bool

    package init(_ code: Code, _ message: String, isFromPeer: Bool = false) {
        self.code = code
        self.message = message
        self.isFromPeer = isFromPeer
    }

    package var description: String { message }
}
