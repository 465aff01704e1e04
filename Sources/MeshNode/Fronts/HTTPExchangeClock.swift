import Streams

/// How long a client of HTTP and the servers behind it may take.
struct HTTPTimeouts: Hashable, Sendable {
    /// For a head, from its first byte or the connection's begin; and for a client that is to take its last page.
    var head: Duration = .seconds(15)
    /// Between two requests.
    var idle: Duration = .seconds(60)
    /// For a client that owes content, or does not read; nil: as long as it takes.
    var stall: Duration?
    /// From the end of a request to the head of its response; nil: as long as it takes.
    var upstream: Duration?
}

/// Who is waited for in an exchange, and since when. No I/O.
///
/// A client is looked at now and then, and goes when it was waited for at two looks and nothing came between.
struct HTTPExchangeClock {
    private var clientOwes = false
    private var clientIsClosed = false
    private var wasSeen = false
    /// The client says nothing more: mostly it has gone, but it may wait for its answer.
    private(set) var clientHasEnded = false
    private var clientTakes = false
    /// When the server had the whole request, by the loop's clock.
    private(set) var sent: UInt64?

    mutating func start() { self = HTTPExchangeClock() }

    /// There was nothing to read though the exchange wants more.
    mutating func clientHasNothing() { clientOwes = true }

    /// Bytes of the client have come.
    mutating func clientHasSent() {
        clientOwes = false
        wasSeen = false
    }

    mutating func clientIsFull() { clientIsClosed = true }

    mutating func clientHasRoom() {
        clientIsClosed = false
        wasSeen = false
    }

    mutating func clientEnds() { clientHasEnded = true }

    /// A part of the answer has left.
    mutating func clientHasTaken() { clientTakes = true }

    /// Looks at a client that has ended. Returns whether it has taken nothing since the last look.
    mutating func lookAfterEnd() -> Bool {
        defer { clientTakes = false }
        return !clientTakes
    }

    mutating func requestIsSent(at now: UInt64) { if sent == nil { sent = now } }

    /// Looks at the client. Returns whether it has stood still since the last look.
    mutating func look() -> Bool {
        guard clientOwes || clientIsClosed else {
            wasSeen = false
            return false
        }
        defer { wasSeen = true }
        return wasSeen
    }
}
