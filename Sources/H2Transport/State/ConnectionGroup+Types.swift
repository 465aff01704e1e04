import Streams

/// What a ``ConnectionGroup`` has to know of a connection.
protocol GroupedConnection: AnyObject {
    /// How many more streams the peer allows on it now.
    var availableStreams: Int { get }
    /// Streams that are open or being opened.
    var streamCount: Int { get }
    /// Takes no more streams.
    var isDraining: Bool { get }
    /// A new stream would wait behind what the peer does not read.
    var isWindowStalled: Bool { get }
    /// The peer's SETTINGS have come: how many streams it allows is known.
    var isSettled: Bool { get }
    /// A stream was opened on it.
    var hasServed: Bool { get }
    /// Why it takes no new streams for now: its peer owes an answer.
    var doubt: StreamError? { get }
    /// When its peer, which refuses streams that it had announced, may be asked for more; nil where it refuses none.
    var takesMoreAt: UInt64? { get }
}

// How a group is told what to do, and what it says.
extension ConnectionGroup {
    /// What becomes of the last connection when nobody uses it.
    enum Keeping: Hashable, Sendable {
        /// Closed, as any other.
        case nothing
        /// Its owner is asked, again and again after this time; nil: it stays.
        case ready(askAfter: Duration?)
    }

    struct Rules: Hashable, Sendable {
        /// Connections at once, those aside that take no more streams or are being replaced; at least 1.
        var connections = 16
        var waitingRequests = 4096
        /// How often a request is tried where that does no harm.
        var attempts = 4
        /// A connection without streams is closed after this time.
        var idleTimeout: Duration = .seconds(300)
        var keeping = Keeping.nothing
        /// How long a peer may take to send SETTINGS, and how long what it refuses waits here.
        var settlingTime: Duration = .seconds(15)
    }

    struct Waiting {
        let request: Request
        /// When it came, on the loop's clock.
        let since: UInt64
        var attempts = 0
        /// Has refused it: another one is asked, where there can be another.
        var refuser: Connection?
    }

    /// How the last connection went.
    struct Loss {
        var reason: StreamError?
        /// Streams were open, or somebody waited.
        var wasUsed = false
    }

    enum Admission {
        case start(Connection)
        /// ``next(now:)`` says when.
        case waits
        /// So many wait already.
        case tooMany(Int)
    }

    /// What is to be done.
    enum Step {
        case start(Waiting, on: Connection)
        case fail(Request, StreamError)
        /// Answered by ``dialed(_:now:)`` or ``dialFailed(_:now:)``.
        case dial
        /// Its replacement is up.
        case retire(Connection)
        /// Nobody uses it: for a while, or it is too old.
        case close(Connection, isIdle: Bool)
        /// Its peer has sent no SETTINGS.
        case giveUp(Connection)
        /// Nobody has used the group for a while: may it be let go?
        case askOwner
        /// No connection takes streams, none is being made and nobody waits for one. Without a reason the peer has let
        /// go.
        case down(Loss)
    }
}
