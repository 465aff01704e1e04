package import MeshPolicy
package import Platform
package import SSHSignal
package import Streams

/// One step of a connection: how it ended, and how long it took.
package struct TraceStep: Hashable, Sendable {
    package enum Kind: String, CaseIterable, Hashable, Sendable {
        /// A name becomes addresses.
        case names = "dns"
        case connection = "tcp"
        case keyExchange = "ssh key exchange"
        case hostKey = "ssh host key"
        case login = "ssh login"
        /// All of these, by the user's own `ssh`.
        case program = "ssh"
        /// A channel of an SSH session, to the next host or to where the path leads.
        case channel = "ssh channel"
        case handshake = "tls"
        /// The peer's SETTINGS, which it sends once it has accepted our certificate.
        case settings = "http/2 settings"
        case connect
        /// All of it where the steps are not seen one by one.
        case stream
        case firstByte = "first byte"
    }

    package enum Outcome: Hashable, Sendable {
        case passed
        case failed(TraceFailure)
        /// A step before it has failed.
        case notReached
        /// It was not tried, or there was nothing to see, for this reason.
        case skipped(String)
    }

    package let kind: Kind
    /// With whom, where there are several on the way: a jump host, a gateway.
    package let place: String?
    /// Of a channel or a CONNECT that only leads to the next tunnel: to where. nil: to what was asked for.
    package let between: Authority?
    package var outcome = Outcome.notReached
    /// nil where it was not tried.
    package var duration: Duration?
    /// What there was to see.
    package var detail: String?
    /// It was made for a path before this one, and is the same.
    package var isShared = false

    init(_ kind: Kind, at place: String? = nil, between: Authority? = nil) {
        self.kind = kind
        self.place = place
        self.between = between
    }
}

/// Why a step failed: what went wrong with SSH tells more than what that means for a path.
package enum TraceFailure: Error, Hashable, Sendable, CustomStringConvertible {
    case ssh(SSHError)
    case stream(StreamError)

    package var description: String {
        switch self {
        case .ssh(let error): error.message
        case .stream(let error): error.message
        }
    }
}

/// What became of one way to a peer, step by step.
package struct PathTrace: Hashable, Sendable {
    /// What a failure on the way says of the other ways.
    package enum Weight: Hashable, Sendable {
        /// A gateway that says no has decided, and so has whoever is somebody else.
        case answer
        /// A gateway that says no is none on the way to this peer; whoever is somebody else has decided.
        case identity
        /// It is a way by the peer's word only: nothing.
        case none
    }

    package let path: PathID
    package internal(set) var weight = Weight.answer
    package internal(set) var steps: [TraceStep]
    private var next = 0

    init(_ path: PathID, _ steps: [TraceStep]) {
        self.path = path
        self.steps = steps
    }

    /// The step that failed.
    package var failure: (step: TraceStep, reason: TraceFailure)? {
        for step in steps { if case .failed(let reason) = step.outcome { return (step, reason) } }
        return nil
    }

    /// The path can carry streams: whatever became of the stream that it was asked for. Every path ends with that one,
    /// and its first byte.
    package var isUp: Bool {
        let failed = steps.firstIndex { if case .failed = $0.outcome { true } else { false } }
        return failed.map { $0 >= steps.count - 2 } ?? true
    }

    /// Of all steps together.
    package var duration: Duration { steps.compactMap(\.duration).reduce(.zero, +) }
}

// Steps are taken in order.
extension PathTrace {
    mutating func pass(_ duration: Duration, _ detail: String? = nil) {
        end(.passed, duration, detail)
    }

    mutating func fail(_ reason: TraceFailure, _ duration: Duration? = nil) {
        end(.failed(reason), duration, nil)
    }

    mutating func skip(_ why: String, _ duration: Duration? = nil) { end(.skipped(why), duration, nil) }

    private mutating func end(_ outcome: TraceStep.Outcome, _ duration: Duration?, _ detail: String?) {
        guard next < steps.count else { return }
        steps[next].outcome = outcome
        steps[next].duration = duration
        steps[next].detail = detail
        next += 1
    }

    /// The step before has failed after all: only the next one could tell.
    mutating func failPrevious(_ reason: TraceFailure, after duration: Duration) {
        guard next > 0 else { return fail(reason, duration) }
        next -= 1
        fail(reason, (steps[next].duration ?? .zero) + duration)
    }

    /// The next `count` steps were taken elsewhere, and turned out to be these.
    mutating func take(_ others: [TraceStep], insteadOf count: Int) {
        steps.replaceSubrange(next..<next + count, with: others)
        next += others.count
    }
}
