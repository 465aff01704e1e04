import Platform

/// What both state machines agree on.
enum SignalProtocol {
    static let version = 1
    static let minimumVersion = 1
    static let capabilities = ["enroll", "renew", "endpoints", "probe", "revocations", "access", offering]
    /// Knows `offer` and `outcome`.
    static let offering = "offer"

    static func hello(software: String, now: Int64) -> SignalMessage {
        .hello(
            .init(
                version: version,
                minimumVersion: minimumVersion,
                software: software,
                clock: now,
                capabilities: capabilities
            )
        )
    }

    /// - Parameter peer: "device" or "operator".
    static func incompatibility(_ hello: SignalMessage.Hello, peer: String) -> SignalError? {
        guard hello.minimumVersion <= version, hello.version >= minimumVersion else {
            return SignalError(
                .version,
                """
                the \(peer) (\(Printable.clean(hello.software, limit: 60))) speaks signaling versions \
                \(hello.minimumVersion) to \(hello.version), this side \(minimumVersion) to \(version); use the same release on both
                """
            )
        }
        return nil
    }

    static func unexpected(_ message: SignalMessage, from peer: String, while state: String) -> SignalError {
        SignalError(.unexpected, "the \(peer) sent '\(message.type)' while \(state)")
    }

    static func error(from failure: SignalMessage.Failure, peer: String) -> SignalError {
        SignalError(
            .init(rawValue: Printable.clean(failure.code, limit: 40)),
            "the \(peer) says: \(Printable.clean(failure.message, limit: 1000))",
            isFromPeer: true
        )
    }
}
