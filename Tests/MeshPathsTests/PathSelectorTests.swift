import MeshPolicy
import Streams
import Testing

@testable import MeshPaths

extension PathID {
    fileprivate static let h2 = PathID(.h2)
    fileprivate static let h2OverSSH = PathID(.h2OverSSH)
    fileprivate static let ssh = PathID(.ssh)
}

@Suite struct PathSelectorTests {
    let second: UInt64 = 1_000_000_000
    let lost = StreamError(.timedOut, "no answer to PING")

    @Test func bestPathIsTriedAloneFirst() {
        var selector = PathSelector(paths: [.h2, .h2OverSSH, .ssh])
        #expect(selector.wanted(now: 0) == [.connect(.h2)])
        #expect(selector.wanted(now: 1).isEmpty)
        #expect(selector.nextDeadline == 250_000_000)
        #expect(selector.tick(now: 249_999_999).isEmpty)
        #expect(selector.tick(now: 250_000_000) == [.connect(.h2OverSSH)])
        #expect(selector.tick(now: 500_000_000) == [.connect(.ssh)])
        #expect(selector.nextDeadline == nil)
    }

    /// Whatever became of an attempt: a better path is not missed for ever.
    @Test func aBetterPathOfWhichNothingIsHeardIsAskedForAgain() {
        var selector = PathSelector(paths: [.h2, .ssh])
        _ = selector.wanted(now: 0)
        _ = selector.tick(now: second)
        _ = selector.cameUp(.ssh, now: second)
        #expect(selector.nextDeadline == 30 * second)
        #expect(selector.tick(now: 30 * second - 1).isEmpty)
        #expect(selector.tick(now: 30 * second) == [.connect(.h2)])
        #expect(selector.nextDeadline == 60 * second)
    }

    /// Letting everything go ends the attempts as well, and nobody tells of them any more.
    @Test func whatIsBeingTriedIsLetGoAsWell() {
        var selector = PathSelector(paths: [.h2])
        #expect(selector.wanted(now: 0) == [.connect(.h2)])
        selector.released()
        #expect(selector.wanted(now: 1) == [.connect(.h2)])
    }

    /// A peer may name more ways to it while another one is in use.
    @Test func aWayThatBecomesKnownIsTriedAtItsPlace() {
        let (first, second) = (PathID(.h2ViaGateway, "a:1"), PathID(.h2ViaGateway, "b:1"))
        var selector = PathSelector(paths: [.h2, .h2OverSSH, .ssh])
        _ = selector.wanted(now: 0)
        _ = selector.cameUp(.ssh, now: 1)
        selector.add([first, second, first])
        #expect(selector.candidates.map(\.path) == [.h2, first, second, .h2OverSSH, .ssh])
        #expect(selector.nextDeadline == 0)
        let actions = selector.tick(now: 2)
        #expect(actions.contains(.connect(first)) && actions.contains(.connect(second)))
        // It takes over once it has proven stable, as every better path.
        #expect(selector.cameUp(first, now: 2).isEmpty)
        let later = selector.tick(now: 2 + 2 * self.second)
        #expect(later.contains { if case .use(first, instead: .ssh, _) = $0 { true } else { false } })
        // One that is in use stays, whatever its peer says of it.
        let removed = [selector.remove(first), selector.remove(second), selector.remove(second)]
        #expect(removed == [false, true, true])
        #expect(selector.candidates.map(\.path) == [.h2, first, .h2OverSSH, .ssh])
    }

    /// Those that need no login need not wait for one.
    @Test func bothWaysAroundAreMadeReadyInTime() {
        let gateway = PathID(.h2ViaGateway, "a:1")
        var selector = PathSelector(paths: [.h2, .h2OverSSH, .ssh])
        selector.add([gateway])
        _ = selector.wanted(now: 0)
        _ = selector.cameUp(.h2, now: 1)
        #expect(selector.suspected(.h2, overSSH: false, now: 2) == [.connect(gateway)])
        #expect(selector.suspected(.h2, now: 2) == [.connect(.h2OverSSH)])
        _ = selector.cameUp(.h2OverSSH, now: 3)
        #expect(selector.resuming == .h2)
    }

    /// What a path is left for should be there by then; nothing is left for a suspicion.
    @Test func whatStreamsCanGoOnOverIsMadeReadyInTime() {
        var selector = PathSelector(paths: [.h2, .h2OverSSH, .ssh])
        #expect(selector.suspected(.h2, now: 0).isEmpty, "nothing is in use")
        _ = selector.wanted(now: 0)
        _ = selector.cameUp(.h2, now: 1)
        #expect(selector.suspected(.ssh, now: 2).isEmpty)
        #expect(selector.suspected(.h2, now: 2) == [.connect(.h2OverSSH)])
        #expect(selector.suspected(.h2, now: 3).isEmpty, "it is being tried")
        // One that cannot be had is not asked for with each late answer.
        #expect(selector.wentDown(.h2OverSSH, StreamError(.refused, "no"), now: 4).isEmpty)
        #expect(selector.suspected(.h2, now: 5).isEmpty && selector.inUse == .h2)
        #expect(selector.suspected(.h2, now: 20 * second) == [.connect(.h2OverSSH)])
        #expect(selector.cameUp(.h2OverSSH, now: 21 * second).isEmpty && selector.inUse == .h2)
        #expect(selector.suspected(.h2, now: 22 * second).isEmpty)
        let actions = selector.wentDown(.h2, lost, now: 23 * second)
        #expect(actions == [.use(.h2OverSSH, instead: .h2, reason: lost.message)])
    }

    @Test func aFailureEndsTheHeadStart() {
        var selector = PathSelector(paths: [.h2, .ssh])
        _ = selector.wanted(now: 0)
        #expect(selector.wentDown(.h2, StreamError(.refused, "refused"), now: 5) == [.connect(.ssh)])
        #expect(selector.cameUp(.ssh, now: 9) == [.use(.ssh, instead: nil, reason: "first path that answered")])
    }

    @Test func unreachableNamesEveryReason() {
        var selector = PathSelector(paths: [.h2, .ssh])
        _ = selector.wanted(now: 0)
        _ = selector.wentDown(.h2, StreamError(.refused, "nothing listens"), now: 1)
        let actions = selector.wentDown(.ssh, StreamError(.timedOut, "no banner"), now: 2)
        guard case .unreachable(let error) = actions.first else {
            Issue.record("expected .unreachable, got \(actions)")
            return
        }
        #expect(error.code == .unreachable)
        #expect(error.message.contains("h2: nothing listens"))
        #expect(error.message.contains("ssh: no banner"))
        // Somebody who asks again does not wait for the pause.
        #expect(selector.wanted(now: 3) == [.connect(.h2)])
    }

    @Test func aLostPathIsLeftAtOnceForAWarmOne() {
        var selector = PathSelector(paths: [.h2, .ssh])
        _ = selector.wanted(now: 0)
        _ = selector.tick(now: second)
        _ = selector.cameUp(.h2, now: second)
        #expect(selector.cameUp(.ssh, now: second).isEmpty, "a worse path does not take over")
        #expect(
            selector.wentDown(.h2, lost, now: 2 * second)
                == [.use(.ssh, instead: .h2, reason: "no answer to PING")]
        )
    }

    @Test func aLostPathWithoutAWarmOneIsTriedAgainBesideTheNext() {
        var selector = PathSelector(paths: [.h2, .ssh])
        _ = selector.wanted(now: 0)
        _ = selector.cameUp(.h2, now: 1)
        let reset = StreamError(.reset, "connection reset by peer")
        #expect(selector.wentDown(.h2, reset, now: second) == [.connect(.h2)])
        #expect(selector.inUse == nil)
        #expect(selector.tick(now: second + 250_000_000) == [.connect(.ssh)])
        #expect(
            selector.cameUp(.ssh, now: second + 300_000_000)
                == [.use(.ssh, instead: .h2, reason: "connection reset by peer")]
        )
    }

    /// It was waited for before it was called lost: nothing is gained by waiting for it again.
    @Test func aPathThatFellSilentHasNoHeadStart() {
        var selector = PathSelector(paths: [.h2, .ssh])
        _ = selector.wanted(now: 0)
        _ = selector.cameUp(.h2, now: 1)
        #expect(selector.wentDown(.h2, lost, now: second) == [.connect(.h2), .connect(.ssh)])
        #expect(
            selector.cameUp(.ssh, now: second + 10_000_000)
                == [.use(.ssh, instead: .h2, reason: "no answer to PING")]
        )
    }

    /// A path that fails for minutes is looked for again every ten seconds, not ever more seldom.
    @Test func theBackOffDoesNotOutliveItsCause() {
        var selector = PathSelector(paths: [.h2, .ssh])
        _ = selector.wanted(now: 0)
        let refused = StreamError(.refused, "connection refused")
        _ = selector.wentDown(.h2, refused, now: 0)
        _ = selector.cameUp(.ssh, now: 1)
        var now: UInt64 = 0
        for _ in 0..<20 {
            guard let next = selector.nextDeadline else {
                Issue.record("h2 is not tried again")
                return
            }
            #expect(next <= now + 12 * second)
            now = next
            #expect(selector.tick(now: now) == [.connect(.h2)])
            _ = selector.wentDown(.h2, refused, now: now)
        }
    }

    @Test func aPathThatNobodyUsesIsNotTriedAgainBeforeSomebodyWantsIt() {
        var selector = PathSelector(paths: [.h2, .ssh])
        _ = selector.wanted(now: 0)
        _ = selector.cameUp(.h2, now: 1)
        #expect(selector.wentDown(.h2, lost, isWanted: false, now: second) == [])
        #expect(selector.nextDeadline == nil)
        #expect(selector.wanted(now: 2 * second) == [.connect(.h2)])
        #expect(
            selector.cameUp(.h2, now: 3 * second) == [
                .use(.h2, instead: nil, reason: "connected again (no answer to PING)")
            ]
        )
    }

    @Test func aPathAtRestComesBackWhenSomebodyWantsIt() {
        var selector = PathSelector(paths: [.h2, .ssh])
        _ = selector.wanted(now: 0)
        _ = selector.cameUp(.h2, now: 1)
        #expect(selector.rested(.h2, now: second) == [])
        #expect(selector.inUse == nil && selector.nextDeadline == nil)
        #expect(selector.wanted(now: 2 * second) == [.connect(.h2)])
        #expect(selector.cameUp(.h2, now: 3 * second) == [.use(.h2, instead: nil, reason: "connected again")])
    }

    @Test func aPathAtRestThatDoesNotComeBackIsLeftForAWarmOne() {
        var selector = PathSelector(paths: [.h2, .ssh])
        _ = selector.wanted(now: 0)
        _ = selector.tick(now: second)
        _ = selector.cameUp(.h2, now: second)
        _ = selector.cameUp(.ssh, now: second)
        _ = selector.rested(.h2, now: 2 * second)
        #expect(selector.wanted(now: 3 * second) == [.connect(.h2)])
        #expect(
            selector.wentDown(.h2, StreamError(.refused, "refused"), now: 4 * second)
                == [.use(.ssh, instead: .h2, reason: "refused")]
        )
    }

    @Test func aBetterPathThatDoesNotStayIsProbedMoreAndMoreSeldom() {
        var selector = PathSelector(paths: [.h2, .ssh])
        _ = selector.wanted(now: 0)
        _ = selector.wentDown(.h2, lost, now: 1)
        _ = selector.cameUp(.ssh, now: 2)
        var now: UInt64 = 2
        var pauses: [UInt64] = []
        for _ in 0..<5 {
            let retry = selector.nextDeadline ?? 0
            pauses.append(retry - now)
            now = retry
            #expect(selector.tick(now: now) == [.connect(.h2)])
            _ = selector.cameUp(.h2, now: now)
            #expect(selector.rested(.h2, now: now) == [])
            #expect(selector.inUse == .ssh)
        }
        #expect(pauses[4] > pauses[0])
    }

    @Test func aBetterPathTakesOverOnlyAfterItProvedStable() {
        var selector = PathSelector(paths: [.h2, .ssh])
        _ = selector.wanted(now: 0)
        _ = selector.wentDown(.h2, lost, now: 1)
        _ = selector.cameUp(.ssh, now: 2)
        // Probed again after the pause of 1 s ± 20 %.
        guard let retry = selector.nextDeadline else {
            Issue.record("probing for the better path must not stop")
            return
        }
        #expect((800_000_000...1_200_000_001).contains(retry))
        #expect(selector.tick(now: retry) == [.connect(.h2)])
        #expect(selector.cameUp(.h2, now: 3 * second).isEmpty)
        #expect(selector.nextDeadline == 5 * second)
        #expect(selector.tick(now: 5 * second - 1).isEmpty)
        #expect(
            selector.tick(now: 5 * second) == [.use(.h2, instead: .ssh, reason: "h2 is back and stable")]
        )
        #expect(selector.inUse == .h2)
    }

    /// Where the path in use can carry it, it takes no other; where that cannot, it has nothing to lose.
    @Test func aStreamThatGoesOnWaitsForNoProof() {
        var selector = PathSelector(paths: [.h2, .h2OverSSH, .ssh])
        #expect(selector.resuming == nil)
        _ = selector.wanted(now: 0)
        _ = selector.wentDown(.h2, lost, now: 1)
        _ = selector.wentDown(.h2OverSSH, lost, now: 2)
        // What had failed for want of a session is tried at once.
        let actions = selector.cameUp(.ssh, now: 3)
        #expect(actions.last == .connect(.h2OverSSH) && actions.count == 2)
        #expect(selector.inUse == .ssh && selector.resuming == .ssh)
        #expect(selector.cameUp(.h2OverSSH, now: 4).isEmpty)
        #expect(selector.inUse == .ssh && selector.resuming == .h2OverSSH)
        _ = selector.tick(now: 4 + 2 * second)
        _ = selector.cameUp(.h2, now: 5 + 2 * second)
        #expect(selector.inUse == .h2OverSSH && selector.resuming == .h2OverSSH)
    }

    @Test func flappingLengthensThePause() {
        var selector = PathSelector(paths: [.h2, .ssh])
        _ = selector.wanted(now: 0)
        _ = selector.cameUp(.ssh, now: 1)
        var now: UInt64 = 2
        var pauses: [UInt64] = []
        for _ in 0..<6 {
            _ = selector.wentDown(.h2, lost, now: now)
            let retry = selector.nextDeadline ?? 0
            pauses.append(retry - now)
            now = retry
            #expect(selector.tick(now: now) == [.connect(.h2)])
        }
        #expect(pauses[1] > pauses[0] && pauses[3] > pauses[2])
        #expect(pauses.allSatisfy { $0 <= 36 * second })
    }

    @Test func failedAuthenticationRefusesThePeerOnEveryPath() {
        var selector = PathSelector(paths: [.h2, .ssh])
        _ = selector.wanted(now: 0)
        _ = selector.tick(now: second)
        let error = StreamError(.authentication, "wrong identity")
        #expect(selector.wentDown(.h2, error, now: second) == [.refused(error)])
        #expect(selector.candidates.map(\.lastError) == [error, nil])
        #expect(selector.cameUp(.ssh, now: second).isEmpty, "no downgrade to a path that does not check")
        #expect(selector.wanted(now: 2 * second - 1) == [.refused(error)])
        #expect(selector.nextDeadline == nil)

        // Asked again later, only the path that failed is tried, and only its success lifts the refusal.
        #expect(selector.wanted(now: 2 * second) == [.connect(.h2)])
        #expect(selector.tick(now: 4 * second).isEmpty)
        #expect(selector.cameUp(.ssh, now: 4 * second).isEmpty)
        #expect(
            selector.wentDown(.h2, StreamError(.timedOut, "no answer"), now: 4 * second) == [.refused(error)],
            "silence does not make the peer another one"
        )
        #expect(selector.wanted(now: 5 * second) == [.connect(.h2)])
        #expect(
            selector.cameUp(.h2, now: 6 * second) == [.use(.h2, instead: nil, reason: "first path that answered")]
        )
        #expect(selector.inUse == .h2)
    }
}
