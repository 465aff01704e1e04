import Glibc
import Synchronization
import Testing

@testable import Platform

struct WallClockTests {
    @Test func systemFixedAndAdvanced() {
        let before = Int64(time(nil))
        let now = WallClock.system.seconds
        #expect(before <= now && now <= Int64(time(nil)))
        #expect(abs(WallClock.system.milliseconds / 1000 - now) <= 60)
        let fixed = WallClock.fixed(1_800_000_000)
        #expect(fixed.seconds == 1_800_000_000 && fixed.milliseconds == 1_800_000_000_000)
        #expect(fixed.advanced(by: 86_400).seconds == 1_800_086_400)
    }

    @Test func aTestSetsIt() {
        let now = Atomic<Int64>(5_999)
        let clock = WallClock { now.load(ordering: .relaxed) }
        #expect(clock.seconds == 5, "rounded down")
        now.store(6_000, ordering: .relaxed)
        #expect(clock.seconds == 6)
    }
}
