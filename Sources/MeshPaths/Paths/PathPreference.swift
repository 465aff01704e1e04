package import MeshPolicy

/// Which transports may carry streams to a peer: the key `path` of an endpoint, and `connect --path`.
package enum PathPreference: String, CaseIterable, Hashable, Sendable {
    /// The best of those that there is an address for, changed as they come and go.
    case automatic = "auto"
    case h2
    case h2ViaGateway = "h2-via-gateway"
    case h2OverSSH = "h2-over-ssh"
    case ssh

    /// In order of preference.
    package var transports: [Transport] {
        switch self {
        case .automatic: [.h2, .h2OverSSH, .ssh]
        case .h2: [.h2]
        case .h2ViaGateway: [.h2ViaGateway]
        case .h2OverSSH: [.h2OverSSH]
        case .ssh: [.ssh]
        }
    }
}
