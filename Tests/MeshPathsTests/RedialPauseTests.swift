import Streams
import Testing

@testable import MeshPaths

/// When devices come back to a gateway: values, and a fleet of them.
@Suite struct RedialPauseTests {
    @Test func pausesGrowUpToALimit() {
        var pause = RedialPause()
        let middles = (0..<7).map { _ in pause.failed(0.5) }
        #expect(middles == [1, 2, 4, 8, 16, 30, 30].map { Duration.seconds($0) })
        var (least, most) = (RedialPause(), RedialPause())
        #expect(least.failed(0) == .milliseconds(500) && most.failed(0.999) < .milliseconds(1500))
        for _ in 0..<100 {
            #expect(least.failed(0) <= .seconds(15))
            #expect(most.failed(0.999) < .seconds(45))
        }
    }

    @Test func onlyAConnectionThatLastedMakesUpForFailures() {
        var pause = RedialPause()
        for _ in 0..<5 { _ = pause.failed(0.5) }
        // A gateway that takes connections and ends them is none that works.
        #expect(pause.lost(after: .seconds(59), 0.5) == .seconds(30) && pause.failures == 6)
        #expect(pause.lost(after: .seconds(60), 0.5) == .milliseconds(1500) && pause.failures == 0)
        #expect(pause.failed(0.5) == .seconds(1))
        #expect(pause.replacing(0) == .zero && pause.replacing(0.999) < RedialPause.spread)
    }

    @Test func aGatewayThatSaysThatItEndsIsDialledAgainSoon() {
        var pause = RedialPause()
        for _ in 0..<5 { _ = pause.failed(0.5) }
        #expect(pause.lost(after: .seconds(20), isOrderly: true, 0.5) == .milliseconds(1500) && pause.failures == 0)
        // Restarted time and again, it is there each time.
        #expect(pause.failed(0.5) == .seconds(1))
        #expect(pause.lost(after: .seconds(5), isOrderly: true, 0.999) < RedialPause.spread && pause.failures == 0)
        // One that lets go of whatever it takes is not dialled in a loop.
        let loop = (0..<4).map { _ in pause.lost(after: .seconds(1), isOrderly: true, 0.5) }
        #expect(loop == [1, 2, 4, 8].map { Duration.seconds($0) })
    }

    /// A thousand devices lose a gateway at the same moment, which is back after so many seconds: how many come in the
    /// busiest second, and when the last one is there.
    @Test(arguments: [0, 2, 20, 300], [true, false])
    func aRestartIsNoStampede(downFor seconds: Int, isOrderly: Bool) {
        var random = SplitMix(seed: 7 + UInt64(seconds))
        let count = 1000
        var attempts: [Int: Int] = [:]
        var last: Duration = .zero
        for _ in 0..<count {
            var pause = RedialPause()
            let held: Duration = isOrderly ? .seconds(10) : .seconds(3600)
            var time = pause.lost(after: held, isOrderly: isOrderly, random.chance())
            while true {
                attempts[Int(time.components.seconds), default: 0] += 1
                guard time < .seconds(seconds) else { break }
                time += pause.failed(random.chance())
            }
            last = max(last, time)
        }
        let busiest = attempts.max { $0.value < $1.value }?.value ?? 0
        // The first round is spread over three seconds, and the second of those that were refused comes in between.
        #expect(busiest < 800, "\(busiest)")
        #expect(attempts[0, default: 0] > 200, "nobody waits for no reason")
        // Once it is back, nobody stays away for longer than the longest pause.
        #expect(last < .seconds(seconds + 45), "\(last)")
        // After a while they are spread over all of it: no wave after wave.
        let late = attempts.filter { $0.key > 120 }.map(\.value)
        #expect(late.allSatisfy { $0 < 80 }, "\(late.max() ?? 0)")
    }

    /// Chance that is the same each time.
    private struct SplitMix {
        var state: UInt64

        init(seed: UInt64) { state = seed }

        mutating func chance() -> Double {
            state &+= 0x9E37_79B9_7F4A_7C15
            var value = state
            value = (value ^ value >> 30) &* 0xBF58_476D_1CE4_E5B9
            value = (value ^ value >> 27) &* 0x94D0_49BB_1331_11EB
            return Double((value ^ value >> 31) >> 11) / Double(1 << 53)
        }
    }
}
