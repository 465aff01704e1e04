import H2Transport
import Streams

/// How long a connection may take to answer a PING before it is in doubt: what is measured says so.
enum AnswerTime {
    /// At least: together with the silence before somebody asks, a black hole is left within 1.5 s.
    static let shortest: Duration = .milliseconds(800)
    /// The most that is granted because an answer was slow before.
    static let longestAllowance: Duration = .seconds(4)
    /// Where nothing was measured yet, as right after the handshake: a satellite's way and back, three times.
    static let unmeasured: Duration = .seconds(2)

    /// One long pause must not make the next black hole go unnoticed for as long. In whole milliseconds, since people
    /// are told it when nothing came.
    static func allowed(_ roundTripTime: Duration?, slowestAnswer: Duration = .zero) -> Duration {
        max(shortest, (roundTripTime ?? .zero) * 4, min(slowestAnswer * 2, longestAllowance)).wholeMilliseconds
    }

    /// How long it may take before another way is made ready, which costs nobody a stream where the answer comes after
    /// all: longer than a PING takes that is not lost; and then as late as lets that way be ready when this one is in
    /// doubt. Most machines that do not answer for half a second have not gone: they are busy.
    ///
    /// - Parameters:
    ///   - roundTripTime: As measured; nil: not yet.
    ///   - allowed: Until the connection is in doubt.
    ///   - preparation: What the other way takes.
    static func unsuspicious(_ roundTripTime: Duration?, allowed: Duration, preparation: Duration) -> Duration {
        min(max(soonest, (roundTripTime ?? .zero) * 5 / 4, allowed - preparation), allowed)
    }

    private static let soonest: Duration = .milliseconds(100)

    /// What a way over SSH or through a gateway takes until streams can be asked for on it.
    ///
    /// - Parameters:
    ///   - roundTripTime: Of a path to the same machine.
    ///   - login: What the last login took; zero: there is a session; nil: nobody knows.
    static func preparation(_ roundTripTime: Duration?, login: Duration?) -> Duration {
        let roundTrip = roundTripTime ?? .zero
        // docs/ssh.md counts them: six for the login at most, then the channel and TLS. A gateway takes four in all.
        let estimate = roundTrip * 6 + unmeasuredLogin
        return (login.map { $0 * 5 / 4 } ?? estimate) + roundTrip * 4 + .milliseconds(100)
    }

    /// Forks, keys and a shell's start on a small machine.
    private static let unmeasuredLogin: Duration = .milliseconds(400)

    static func allowed(_ connection: H2Connection) -> Duration {
        allowed(connection.roundTripTime, slowestAnswer: connection.slowestAnswer)
    }
}
