package import MeshIdentity
package import MeshPolicy
package import Streams

/// What happened to the way to a peer: one clear line for people, one record for programs.
package enum PathChange: Sendable {
    /// New streams go over this path from now on.
    case using(PathID, insteadOf: PathID?, reason: String, peer: SPIFFEID?)
    /// The SSH server does not forward, for this reason: `h2-over-ssh` goes through a command of the agent.
    case relaying(reason: String)
    /// No path works; streams that waited were refused with this.
    case unreachable(StreamError)
    /// The peer did not prove who it is. Final, on every path.
    case refused(StreamError)
}

extension PathChange: CustomStringConvertible {
    package var description: String {
        switch self {
        case .using(let path, let before?, let reason, _): "path \(before) → \(path): \(reason)"
        case .using(let path, nil, let reason, _): "path \(path): \(reason)"
        case .relaying(let reason): "path \(Transport.h2OverSSH) goes through the agent: \(reason)"
        case .unreachable(let error): error.message
        case .refused(let error): error.message
        }
    }
}
