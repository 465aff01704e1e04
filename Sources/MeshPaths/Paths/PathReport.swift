package import MeshIdentity
package import MeshPolicy
package import Platform

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
    /// Whether its connection is of Multipath TCP; nil: nobody has asked for that, or there is none.
    package let isMultipath: Bool?
    /// For how long new streams have taken it, and why; nil where they do not.
    package let age: Duration?
    package let why: String?
    /// Where the path leads to several; empty where it does not.
    package let servers: [ServerReport]
    /// Where the path was dialled, in the order in which it would be now; empty where there is one place at most.
    package let addresses: [AddressReport]
}

/// What became of one address of a peer, for people.
package struct AddressReport: Hashable, Sendable {
    package let address: Authority
    /// By the peer's word, over SSH.
    package let isTold: Bool
    /// TCP's handshake.
    package let connectTime: Duration?
    /// TCP's and TLS's, with the first answer.
    package let handshake: Duration?
    /// Why it does not answer, last.
    package let failure: String?
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
