import Testing

@testable import Agent

@Suite struct SupervisionTests {
    private let begin = ContinuousClock.now

    @Test func aNodeThatDiesIsStartedAgainAfterAPauseThatGrows() {
        var supervision = Supervision(at: begin)
        var now = begin
        var pauses: [Duration] = []
        for process in Int32(2)...12 {
            #expect(supervision.next(at: now) == .start)
            supervision.started(process)
            #expect(supervision.process == process)
            #expect(supervision.next(at: now) == .wait(.seconds(3600)))
            now += .seconds(1)
            #expect(supervision.ended(process, at: now) == true)
            guard case .wait(let pause) = supervision.next(at: now) else {
                Issue.record("it does not wait")
                return
            }
            pauses.append(pause)
            #expect(supervision.next(at: now + pause - .milliseconds(1)) == .wait(.milliseconds(1)))
            now += pause
        }
        #expect(
            pauses
                == [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000].map { .milliseconds($0) }
        )
    }

    @Test func afterAHealthyLifeThePauseIsTheFirstAgain() {
        var supervision = Supervision(at: begin)
        #expect(supervision.next(at: begin) == .start)
        supervision.startFailed(at: begin)
        #expect(supervision.next(at: begin) == .wait(.milliseconds(100)))
        let second = begin + .seconds(1)
        #expect(supervision.next(at: second) == .start)
        supervision.started(7)
        // One that lives for exactly this long is not healthy yet.
        var short = supervision
        #expect(short.ended(7, at: second + Supervision.healthyLife) == true)
        #expect(short.next(at: second + Supervision.healthyLife) == .wait(.milliseconds(200)))
        let late = second + Supervision.healthyLife + .seconds(1)
        #expect(supervision.ended(7, at: late) == true)
        #expect(supervision.next(at: late) == .wait(.milliseconds(100)))
    }

    /// The end of the new one may be the first thing that is heard of after the replacement.
    @Test func theNodeThatTookOverIsTheOneThatIsWatched() {
        var supervision = Supervision(at: begin)
        #expect(supervision.next(at: begin) == .start)
        supervision.started(7)
        supervision.replaced(by: 8, at: begin)
        #expect(supervision.ended(7, at: begin) == false, "it was taken over, and ends with its last stream")
        #expect(supervision.process == 8)
        #expect(supervision.ended(8, at: begin) == true)
        #expect(supervision.process == nil)
        #expect(supervision.next(at: begin) == .wait(.milliseconds(100)))
    }

    @Test func aRequestInAPauseEndsThePause() {
        var supervision = Supervision(at: begin)
        #expect(supervision.next(at: begin) == .start)
        supervision.startFailed(at: begin)
        supervision.replaced(by: 8, at: begin)
        #expect(supervision.process == 8)
        #expect(supervision.next(at: begin + .seconds(5)) == .wait(.seconds(3600)))
    }

    @Test func stoppedItStartsNothing() {
        var supervision = Supervision(at: begin)
        #expect(supervision.next(at: begin) == .start)
        supervision.stop()
        supervision.started(7)
        supervision.replaced(by: 8, at: begin)
        #expect(supervision.process == nil)
        #expect(supervision.ended(7, at: begin) == false)
        #expect(supervision.next(at: begin + .seconds(100)) == .end)
    }
}
