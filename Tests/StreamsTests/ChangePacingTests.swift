import Testing

@testable import Streams

/// When changes of the network are told of.
@Suite struct ChangePacingTests {
    private func nanoseconds(_ duration: Duration) -> UInt64 { duration.nanoseconds }

    @Test func whatComesTogetherIsOne() {
        var pacing = ChangePacing()
        #expect(pacing.changed(now: 1_000) == ChangePacing.delay)
        #expect(pacing.changed(now: 2_000) == nil)
        pacing.told(now: 1_000 + nanoseconds(ChangePacing.delay))
        #expect(pacing.isPending == false)
    }

    @Test("changes without end are told of the less often the longer they go on")
    func storm() {
        var pacing = ChangePacing()
        var now: UInt64 = 1_000
        var told = 0
        // One every 10 ms, for ten minutes.
        var due: UInt64?
        for _ in 0..<60_000 {
            now += nanoseconds(.milliseconds(10))
            if let time = due, now >= time {
                pacing.told(now: now)
                told += 1
                due = nil
            }
            if let delay = pacing.changed(now: now) { due = now + nanoseconds(delay) }
        }
        // 0.5, 1, 2, 4, 8, 16 and then every 30 s.
        #expect((20...30).contains(told), "told \(told) times")
    }

    @Test("after a quiet minute the next change is told of at once")
    func quiet() {
        var pacing = ChangePacing()
        var now: UInt64 = 1_000
        for _ in 0..<10 {
            _ = pacing.changed(now: now)
            pacing.told(now: now)
            now += nanoseconds(.seconds(1))
        }
        now += nanoseconds(ChangePacing.quiet)
        #expect(pacing.changed(now: now) == ChangePacing.delay)
        pacing.told(now: now)
        #expect(pacing.changed(now: now + 1).map { $0 <= ChangePacing.firstPause } == true)
    }

    @Test func whatWasNoChangeCostsNothing() {
        var pacing = ChangePacing()
        _ = pacing.changed(now: 1_000)
        pacing.forgotten()
        #expect(pacing.changed(now: 2_000) == ChangePacing.delay)
    }
}
