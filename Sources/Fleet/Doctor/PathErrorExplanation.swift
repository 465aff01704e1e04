import Streams

/// What can be done about a tunnel to a node that could not be made. The error itself says what happened.
struct PathErrorExplanation {
    let fix: String
    let reason: HostError.Reason

    /// - Parameter name: The device's; nil: the peer is none.
    init(_ error: StreamError, name: String?) {
        switch error.code {
        case .authentication:
            reason = .authenticationRefused
            fix =
                name.map { "bootstrap renew \($0) gives it a certificate of the present CA" }
                ?? "compare who it must be with whom its certificate names, and both sides' roots with each other's CA"
        case .timedOut:
            (fix, reason) = ("open that TCP port in the firewalls on the way", .unreachable)
        case .refused:
            (fix, reason) = ("start its node (bootstrap enroll), or open the firewall that refuses it", .unreachable)
        default:
            (fix, reason) = (
                "what listens there has to be its node (ss -tlnp there), and nothing on the way may cut it",
                .unreachable
            )
        }
    }
}
