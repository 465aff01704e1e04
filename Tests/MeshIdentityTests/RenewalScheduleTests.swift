import MeshIdentity
import Testing

@Suite struct RenewalSchedules {
    @Test(arguments: [300, 3600, 86400, 90 * 86400] as [Int64], [0, 0.25, 0.5, 0.999, 1])
    func renewalIsBetweenHalfAndTwoThirds(_ lifetime: Int64, _ random: Double) {
        let issued: Int64 = 1_800_000_000
        let schedule = RenewalSchedule(notBefore: issued - 120, notAfter: issued + lifetime, random: random)
        #expect(schedule.renewAt >= issued + lifetime / 2)
        #expect(schedule.renewAt <= issued + lifetime * 2 / 3)
        #expect(schedule.wait(at: issued) == schedule.renewAt - issued)
        #expect(schedule.wait(at: schedule.renewAt + 10) == 0)
    }

    @Test func jitterSpreadsAFleet() {
        let early = RenewalSchedule(notBefore: 0, notAfter: 86520, random: 0).renewAt
        let late = RenewalSchedule(notBefore: 0, notAfter: 86520, random: 1).renewAt
        // 20 % of 7/12 of a day.
        #expect(late - early == 10080)
    }

    @Test func aShortLifetimeIsNotDueAtOnce() {
        // A minute, of a CA that sets NotBefore back by two.
        let schedule = RenewalSchedule(notBefore: 880, notAfter: 1060, random: 0)
        #expect(schedule.wait(at: 1000) > 0)
        #expect(schedule.renewAt < 1060)
    }

    @Test func failuresWaitLongerUpToTheCap() {
        var schedule = RenewalSchedule(notBefore: 0, notAfter: 1_000_000, random: 0.5)
        var waits: [Int64] = []
        for _ in 0..<12 { waits.append(schedule.attemptFailed(at: 1000, random: 0.5)) }
        #expect(waits == [1, 2, 4, 8, 16, 32, 64, 128, 150, 150, 150, 150])
        #expect(schedule.failures == 12)
        for _ in 0..<100 { #expect((1...150).contains(schedule.attemptFailed(at: 1000, random: 1))) }
        for _ in 0..<100 { #expect((1...150).contains(schedule.attemptFailed(at: 1000, random: 0))) }
    }

    @Test func oneMoreAttemptIsMadeBeforeTheEnd() {
        var schedule = RenewalSchedule(notBefore: 0, notAfter: 100_000, random: 0.5)
        for _ in 0..<20 { _ = schedule.attemptFailed(at: 0, random: 0.5) }
        #expect(schedule.attemptFailed(at: 99_960, random: 0.5) == 39)
        // Past the end it goes on at the cap, for the CA may come back.
        #expect(schedule.attemptFailed(at: 100_001, random: 0.5) == 150)
    }

    /// A machine whose clock was ahead until somebody set it.
    @Test func aClockThatIsSetBackEndsThePause() {
        var schedule = RenewalSchedule(notBefore: 0, notAfter: 100_120, random: 0.5)
        for _ in 0..<20 { _ = schedule.attemptFailed(at: 90_000, random: 0.5) }
        #expect(schedule.wait(at: 90_000) == 150 && schedule.wait(at: 90_149) == 1)
        #expect(schedule.wait(at: 90_150) == 0)
        #expect(schedule.wait(at: 70_000) == 0, "it is due then, too")
        #expect(schedule.wait(at: 1000) == schedule.renewAt - 1000)
    }

    @Test func nonsenseDoesNotTrap() {
        let schedule = RenewalSchedule(notBefore: 100, notAfter: 50, random: 7)
        #expect(schedule.wait(at: 1000) == 0)
    }
}
