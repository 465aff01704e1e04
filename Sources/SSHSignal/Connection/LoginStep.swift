/// What a login has behind it, for whoever wants to know how long each part takes and which one fails.
package enum LoginStep: Hashable, Sendable {
    /// The host has these addresses; for the first host on the way only.
    case resolved([String])
    /// Bytes can be sent to it: to this address, or through the host before it.
    case connected(String)
    /// The key exchange is done, with a server of this version.
    case exchanged(String)
    /// Its host key was accepted.
    case verified(HostKey)
    /// It has let the user in.
    case loggedIn
}

/// A login as it goes on. What is tried again begins anew.
package struct LoginProgress: Hashable, Sendable {
    package enum Event: Hashable, Sendable {
        /// A host on the way, counted from 0, is connected to.
        case began(hop: Int)
        case passed(LoginStep)
        /// The rest is done by the user's own program, which does not tell its steps.
        case program(String)
    }

    package let event: Event
    package let time: ContinuousClock.Instant

    init(_ event: Event) {
        self.event = event
        time = .now
    }
}
