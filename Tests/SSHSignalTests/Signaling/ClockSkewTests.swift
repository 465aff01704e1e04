import Testing

@testable import SSHSignal

@Suite("clocks that no machine has") struct ClockSkewTests {
    private static let extremes: [Int64] = [.min, .min + 1, -9_223_372_036_854_775, 0, 9_223_372_036_854_775, .max]

    @Test("a peer's clock is a number like any other, in milliseconds and in seconds", arguments: extremes)
    func anyClock(_ clock: Int64) {
        let now: Int64 = 1_800_000_000_000
        for skew in [
            ClockSkew(device: clock, operator: now),
            ClockSkew(deviceSeconds: clock, asked: now, answered: now + 200),
            ClockSkew(milliseconds: clock, uncertainty: 500),
        ] {
            // None of them traps, whatever it says.
            #expect(!skew.description.isEmpty)
            #expect(skew.backdating >= 120)
            #expect(skew.warning == nil || skew.warning?.contains(skew.description) == true)
            for isAccepted in [true, false] { _ = skew.refusal(lifetime: 86_400, isAccepted: isAccepted) }
            _ = skew.refusal(notBefore: clock, notAfter: clock, device: clock)
        }
    }

    @Test("a clock at the beginning of time that is accepted all the same is warned of")
    func acceptedAllTheSame() {
        let skew = ClockSkew(device: .min, operator: 1_800_000_000_000)
        #expect(skew.refusal(lifetime: 86_400, isAccepted: false)?.code == .clock)
        #expect(skew.refusal(lifetime: 86_400, isAccepted: true) == nil)
        #expect(skew.warning?.contains("dated back by 106751991167 d") == true)
    }
}
