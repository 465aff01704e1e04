package import MeshIdentity
package import MeshPolicy
package import Platform
import Streams

/// How one way to a peer stands, for people.
package struct PathReport: Hashable, Sendable {
    package enum State: String, CaseIterable, Hashable, Sendable {
        /// Nobody has asked for it, or it was let go.
        case idle
        case trying
        case up
        /// New streams take it.
        case inUse
        /// It failed, and is tried again after a while.
        case waiting
    }

    package let path: PathID
    package let state: State
    /// Why it does not work, last.
    package let failure: String?
    /// Who the peer proved to be on it.
    package let peer: SPIFFEID?
    package let roundTripTime: Duration?
    /// Open, or being opened.
    package let streams: Int
    /// Where the path leads to several; empty where it does not.
    package let servers: [ServerReport]
}

/// How one of several servers of a peer stands, for people.
package struct ServerReport: Hashable, Sendable {
    package enum State: String, CaseIterable, Hashable, Sendable {
        /// Nobody has asked for it, or it was let go.
        case idle
        case trying
        case up
        /// It is up and answers with failures: streams take it where there is no other.
        case ejected
        /// It failed, and is tried again after a while.
        case waiting
    }

    package let address: Authority
    package let state: State
    /// Why it does not work, last.
    package let failure: String?
}

extension PeerPaths {
    /// Every way to the peer, the preferred one first.
    package var report: [PathReport] {
        candidates.map { candidate in
            let state: PathReport.State =
                switch candidate.state {
                case _ where candidate.path == pathInUse: .inUse
                case .idle: .idle
                case .trying: .trying
                case .up: .up
                case .waiting: .waiting
                }
            let source = source(of: candidate.path)
            return PathReport(
                path: candidate.path,
                state: state,
                failure: candidate.lastError?.description,
                peer: source?.peer,
                roundTripTime: source?.roundTripTime,
                streams: source?.streamCount ?? 0,
                servers: source?.servers ?? []
            )
        }
    }
}
