import H2Transport
import MeshIdentity
import Streams
import Testing

@testable import MeshPaths

/// On which of the connections that a peer holds a stream is asked for, and when nobody is asked any more.
@Suite struct HeldTurnTests {
    private static let nobody = StreamError(.unreachable, "nobody")
    private static let own = CertificateName(issuer: "1", serial: "2")
    private static let other = CertificateName(issuer: "1", serial: "3")

    private static func answer(_ status: Int) -> ConnectFailure {
        ConnectFailure(StreamError(.badRequest, "\(status)"), response: ConnectResponse(status: status, headers: [:]))
    }

    private static var refused: ConnectFailure {
        var failure = ConnectFailure(StreamError(.draining, "refused"), isRetryable: true)
        failure.isRefusal = true
        return failure
    }

    private static let lost = ConnectFailure(StreamError(.truncated, "lost"), isRetryable: true)

    /// nil: the next one is asked.
    private static func text(_ next: HeldTurn.Next) -> String? {
        guard case .over(let failure) = next else { return nil }
        return text(failure)
    }

    private static func text(_ failure: PathFailure) -> String {
        switch failure {
        case .refused(let error): "refused: \(error.message)"
        case .pathLost(let error): "lost: \(error?.message ?? "")"
        }
    }

    @Test func aNewStreamGoesToTheNextFourAtMost() {
        var turn = HeldTurn(.new)
        #expect(Self.text(turn.exhausted(Self.nobody)) == "lost: nobody")
        #expect(Self.text(turn.failed(Self.refused, on: 9, nil)) == nil)
        #expect(Self.text(turn.failed(Self.lost, on: 8, nil)) == nil && turn.asked == [9, 8])
        #expect(Self.text(turn.exhausted(Self.nobody)) == "lost: lost")
        #expect(Self.text(turn.failed(Self.refused, on: 7, nil)) == nil)
        #expect(Self.text(turn.failed(Self.refused, on: 6, nil)) == "lost: refused")
    }

    @Test func anAnswerIsAnAnswer() {
        var turn = HeldTurn(.new)
        #expect(Self.text(turn.failed(Self.answer(403), on: 1, nil)) == "refused: 403")
        #expect(Self.text(turn.failed(Self.answer(503), on: 1, nil)) == "refused: 503")
    }

    @Test func aStreamThatGoesOnIsLookedForWithEachDeviceOfTheIdentity() {
        var turn = HeldTurn(.resumed(Self.own))
        #expect(turn.certificate == Self.own)
        #expect(Self.text(turn.failed(Self.answer(404), on: 1, Self.other)) == nil)
        #expect(Self.text(turn.failed(Self.refused, on: 2, Self.own)) == nil)
        #expect(Self.text(turn.failed(Self.answer(404), on: 3, nil)) == nil)
        // It may come back: the stream is looked for until its time is over, and nobody is asked in a loop.
        #expect(Self.text(turn.exhausted(Self.nobody)).hasPrefix("refused: the device that has the stream"))
        // Who had it says that it is gone.
        #expect(Self.text(turn.failed(Self.answer(404), on: 4, Self.own)) == "refused: 404")
    }

    @Test func whereNobodyKnowsWhichDeviceItWasAllAreAskedOnce() {
        var turn = HeldTurn(.resumed(nil))
        #expect(Self.text(turn.failed(Self.answer(404), on: 1, Self.other)) == nil)
        #expect(Self.text(turn.exhausted(Self.nobody)) == "refused: 404")
    }

    @Test func aTokenThatWasLookedAtIsNotShownAgain() {
        for failure in [Self.lost, Self.answer(409), Self.answer(400), Self.answer(403)] {
            var turn = HeldTurn(.resumed(Self.own))
            #expect(Self.text(turn.failed(failure, on: 1, Self.other)) != nil)
        }
    }

    @Test func anotherProcessThanTheStreamsIsKnownByItsNumber() {
        let turn = HeldTurn(.resumed(Self.own, process: 7))
        #expect(turn.isElsewhere(than: 8) && !turn.isElsewhere(than: 7))
        // Who has not said it is asked.
        #expect(!turn.isElsewhere(than: 0) && !HeldTurn(.resumed(Self.own)).isElsewhere(than: 8))
        #expect(!HeldTurn(.new).isElsewhere(than: 8))
    }
}
