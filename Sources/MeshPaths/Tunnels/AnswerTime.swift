import H2Transport

/// How long a connection may take to answer a PING before it is in doubt: what is measured says so.
enum AnswerTime {
    /// At least: together with the silence before somebody asks, a black hole is left within 1.5 s.
    static let shortest: Duration = .milliseconds(800)
    /// The most that is granted because an answer was slow before.
    static let longestAllowance: Duration = .seconds(4)
    /// Where nothing was measured yet, as right after the handshake: a satellite's way and back, three times.
    static let unmeasured: Duration = .seconds(2)

    /// One long pause must not make the next black hole go unnoticed for as long.
    static func allowed(_ roundTripTime: Duration?, slowestAnswer: Duration = .zero) -> Duration {
        max(shortest, (roundTripTime ?? .zero) * 4, min(slowestAnswer * 2, longestAllowance))
    }

    /// How long it may take before another way is made ready, which costs nobody a stream where the answer comes after
    /// all: longer than a PING takes that is not lost, and so short of doubt that a login over SSH is done by then.
    static func unsuspicious(_ roundTripTime: Duration?) -> Duration {
        min(max(.milliseconds(150), (roundTripTime ?? .zero) * 3 / 2), shortest)
    }

    static func allowed(_ connection: H2Connection) -> Duration {
        allowed(connection.roundTripTime, slowestAnswer: connection.slowestAnswer)
    }
}
