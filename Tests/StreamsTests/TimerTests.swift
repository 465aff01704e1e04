import TestPeers
import Testing

@testable import Streams

@Suite("LoopTimer", .timeLimit(.minutes(10)))
struct TimerTests {
    @Test("timers fire in the order of their deadlines, those with the same deadline in the order of scheduling")
    func order() async throws {
        try await withLoop { loop in
            let fired: [Int] = try await onLoop(loop) { scenario in
                var fired: [Int] = []
                var delays = Array(repeating: [5, 1, 3, 2, 4], count: 10).flatMap { $0 }
                var random = SplitMix64(state: 3)
                delays.shuffle(using: &random)
                for (index, delay) in delays.enumerated() {
                    let timer = LoopTimer(on: loop) {
                        fired.append(delay * 100 + index)
                        if fired.count == delays.count { scenario.complete(fired) }
                    }
                    timer.schedule(after: .milliseconds(delay))
                }
            }
            #expect(fired.count == 50)
            #expect(fired == fired.sorted())
        }
    }

    @Test("never fires early, and once per schedule")
    func onceAndNotEarly() async throws {
        try await withLoop { loop in
            let (start, end): (UInt64, UInt64) = try await onLoop(loop) { scenario in
                var count = 0
                let start = loop.now
                let timer = scenario.keep(
                    LoopTimer(on: loop) {
                        count += 1
                        #expect(count == 1)
                        let end = loop.now
                        afterTurns(3, on: loop) { scenario.complete((start, end)) }
                    }
                )
                #expect(!timer.isScheduled)
                timer.schedule(after: .seconds(1000))
                timer.schedule(after: .microseconds(2500))
                #expect(timer.isScheduled)
            }
            #expect(end >= start + 2_500_000)
        }
    }

    @Test("cancelled, from outside or by the handler of another that is due at the same time, it does not fire")
    func cancellation() async throws {
        try await withLoop { loop in
            let fired: [String] = try await onLoop(loop) { scenario in
                var fired: [String] = []
                let second = LoopTimer(on: loop) { fired.append("second") }
                let first = LoopTimer(on: loop) {
                    fired.append("first")
                    second.cancel()
                    second.cancel()
                    #expect(!second.isScheduled)
                }
                let third = LoopTimer(on: loop) { fired.append("third") }
                let last = LoopTimer(on: loop) { scenario.complete(fired) }
                first.schedule(after: .milliseconds(1))
                second.schedule(after: .milliseconds(1))
                third.schedule(after: .milliseconds(1))
                last.schedule(after: .milliseconds(2))
                third.cancel()
            }
            #expect(fired == ["first"])
        }
    }

    @Test("a handler may reschedule its own timer, also with no delay, and the loop goes on with the rest")
    func rescheduling() async throws {
        try await withLoop { loop in
            let count: Int = try await onLoop(loop) { scenario in
                var count = 0
                var timer: LoopTimer?
                timer = LoopTimer(on: loop) {
                    count += 1
                    if count < 100 {
                        timer?.schedule(after: .zero)
                        if count == 50 { timer?.schedule(after: .milliseconds(-5)) }
                    } else {
                        timer = nil
                    }
                }
                timer?.schedule(after: .zero)
                let other = LoopTimer(on: loop) {
                    afterTurns(200, on: loop) { scenario.complete(count) }
                }
                other.schedule(after: .milliseconds(1))
            }
            #expect(count == 100)
        }
    }

    @Test("10,000 timers, a third cancelled and a third moved, all fire in order")
    func many() async throws {
        try await withLoop { loop in
            let (fired, early): (Int, Int) = try await onLoop(loop) { scenario in
                var random = SplitMix64(state: 11)
                var fired = 0
                var disordered = 0
                var last: UInt64 = 0
                var expected = 0
                var timers: [LoopTimer] = []
                var deadlines = [UInt64](repeating: 0, count: 10_000)
                for index in 0..<10_000 {
                    timers.append(
                        LoopTimer(on: loop) {
                            fired += 1
                            if deadlines[index] < last || loop.now < deadlines[index] { disordered += 1 }
                            last = deadlines[index]
                            if fired == expected { scenario.complete((fired, disordered)) }
                        }
                    )
                }
                func schedule(_ index: Int) {
                    let delay = Int.random(in: 1...50_000, using: &random)
                    deadlines[index] = loop.now + UInt64(delay) * 1000
                    timers[index].schedule(after: .microseconds(delay))
                }
                for index in timers.indices { schedule(index) }
                for index in timers.indices {
                    switch index % 3 {
                    case 0: timers[index].cancel()
                    case 1: schedule(index)
                    default: break
                    }
                }
                expected = timers.filter(\.isScheduled).count
            }
            #expect(fired == 6666)
            #expect(early == 0)
        }
    }

    @Test("a scheduled timer lives although nobody else holds it")
    func retainedWhileScheduled() async throws {
        try await withLoop { loop in
            let fired: Bool = try await onLoop(loop) { scenario in
                LoopTimer(on: loop) { scenario.complete(true) }.schedule(after: .milliseconds(1))
            }
            #expect(fired)
        }
    }
}
