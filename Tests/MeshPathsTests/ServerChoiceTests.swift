import Streams
import Testing

@testable import MeshPaths

@Suite struct ServerChoiceTests {
    private static let second: UInt64 = 1_000_000_000
    private let second = Self.second
    private let lost = StreamError(.reset, "connection reset")

    private func up(_ servers: String...) -> ServerChoice<String> {
        var choice = ServerChoice(servers)
        #expect(choice.wanted(now: 0) == servers)
        for server in servers { choice.cameUp(server, now: 0) }
        return choice
    }

    /// Gives streams, none of which ends, and says how many each server has then.
    private func give(
        _ count: Int,
        _ choice: inout ServerChoice<String>,
        now: UInt64,
        _ loads: [String: Int] = [:]
    ) -> [String: Int] {
        var loads = loads
        for _ in 0..<count {
            guard let server = choice.next(besides: [], now: now, load: { loads[$0] ?? 0 }) else { break }
            loads[server, default: 0] += 1
        }
        return loads
    }

    @Test func theOneWithTheFewestStreamsTakesTheNext() {
        var choice = up("a", "b", "c")
        #expect(give(30, &choice, now: 1) == ["a": 10, "b": 10, "c": 10])
        #expect(give(6, &choice, now: 1, ["a": 10, "b": 4, "c": 10]) == ["a": 10, "b": 10, "c": 10])
        // Streams that end at once: equals take turns.
        var given: [String: Int] = [:]
        for _ in 0..<30 { given[choice.next(besides: [], now: 1, load: { _ in 0 }) ?? "", default: 0] += 1 }
        #expect(given == ["a": 10, "b": 10, "c": 10])
    }

    @Test func onlyWhoIsUpTakesAny() {
        var choice = ServerChoice(["a", "b"])
        #expect(choice.next(besides: [], now: 0) { _ in 0 } == nil)
        #expect(choice.wanted(now: 0) == ["a", "b"])
        #expect(choice.wanted(now: 1) == [])
        choice.cameUp("b", now: 1)
        #expect(choice.isUp)
        #expect(give(3, &choice, now: 1) == ["b": 3])
        #expect(choice.next(besides: ["b"], now: 1) { _ in 0 } == nil)
        choice.cameUp("a", now: 2)
        #expect(choice.next(besides: ["b"], now: 2) { _ in 0 } == "a")
        #expect(choice.next(besides: ["b", "a"], now: 2) { _ in 0 } == nil)
    }

    @Test func onlyOneThatIsLikelyToComeUpIsWaitedFor() {
        var choice = ServerChoice(["a", "b"])
        #expect(!choice.mayComeUp(besides: []))
        _ = choice.wanted(now: 0)
        choice.cameUp("a", now: 0)
        #expect(choice.mayComeUp(besides: ["a"]))
        #expect(!choice.mayComeUp(besides: ["a", "b"]))
        _ = choice.wentDown("b", lost, now: 1)
        #expect(!choice.mayComeUp(besides: ["a"]), "nobody tries it")
        var now = 2 * second
        #expect(choice.tick(now: now) == ["b"])
        #expect(choice.mayComeUp(besides: ["a"]))
        _ = choice.wentDown("b", lost, now: now)
        now += 10 * second
        #expect(choice.tick(now: now) == ["b"])
        #expect(!choice.mayComeUp(besides: ["a"]))
        // One that was well may have been restarted.
        #expect(choice.wentDown("a", lost, now: now) == true)
        #expect(choice.mayComeUp(besides: []))
    }

    @Test func oneThatWasLostIsTriedAtOnceAndThenAfterPausesThatGrow() throws {
        var choice = up("a", "b")
        var now = second
        #expect(choice.wentDown("a", lost, now: now) == true)
        #expect(!choice.isDown)
        #expect(give(4, &choice, now: now) == ["b": 4])
        var pauses: [Double] = []
        for _ in 0..<8 {
            #expect(choice.wentDown("a", lost, now: now) == false)
            let deadline = try #require(choice.nextDeadline)
            #expect(choice.tick(now: deadline - 1) == [])
            #expect(choice.wanted(now: deadline - 1) == [], "there is another one")
            pauses.append(Double(deadline - now) / Double(second))
            now = deadline
            #expect(choice.tick(now: now) == ["a"])
            #expect(choice.nextDeadline == nil)
        }
        for (pause, expected) in zip(pauses, [2, 4, 8, 16, 30, 30, 30, 30] as [Double]) {
            #expect(pause >= expected * 0.79 && pause <= expected * 1.21, "\(pauses)")
        }
    }

    @Test func whoComesBackGetsItsShareLittleByLittle() {
        var choice = up("a", "b")
        _ = choice.wentDown("a", lost, now: second)
        choice.cameUp("a", now: 2 * second)
        // A tenth, a half, all.
        #expect(give(110, &choice, now: 2 * second)["a"] == 10)
        #expect(give(150, &choice, now: 17 * second)["a"] == 50)
        #expect(give(150, &choice, now: 32 * second)["a"] == 75)
        // Whoever was never lost has nothing to prove.
        var fresh = up("a")
        fresh.replace(with: ["a", "b"])
        #expect(fresh.wanted(now: second) == ["b"])
        fresh.cameUp("b", now: second)
        #expect(give(20, &fresh, now: second) == ["a": 10, "b": 10])
    }

    @Test func whoFailsAgainAndAgainIsEjectedLongerEachTime() throws {
        var choice = up("a", "b")
        var now = second
        for expected in [10, 20, 40, 80, 160, 300, 300] {
            for _ in 0..<4 { #expect(choice.failed("a", now: now) == nil) }
            #expect(choice.failed("a", now: now) == .seconds(expected))
            #expect(give(4, &choice, now: now) == ["b": 4])
            now += UInt64(expected) * second
            #expect(give(110, &choice, now: now)["a"] == 10, "a slow start")
        }
        // It was well for long enough.
        now += (60 + 300) * second
        for _ in 0..<4 { _ = choice.failed("a", now: now) }
        #expect(choice.failed("a", now: now) == .seconds(10))
        // One that serves in between is not one that fails again and again.
        for _ in 0..<10 {
            #expect(choice.failed("b", now: now) == nil)
            choice.served("b")
        }
    }

    /// A server that swallows requests, or answers for a destination that does, has not served.
    @Test func whatAFailureSaysOfTheServer() {
        func verdict(_ code: StreamError.Code) -> ServerVerdict {
            ServerVerdict(.refused(StreamError(code, "no stream")))
        }
        #expect(verdict(.denied) == .works)
        for code in [StreamError.Code.badRequest, .loop] { #expect(verdict(code) == .saysNothing, "\(code)") }
        for code in [StreamError.Code.timedOut, .protocolViolation, .truncated] {
            #expect(verdict(code) == .fails, "\(code)")
        }
        for code in [StreamError.Code.refused, .unreachable, .limit, .draining, .reset, .closed] {
            #expect(verdict(code) == .failsAskAnother, "\(code)")
        }
        #expect(ServerVerdict(.pathLost(StreamError(.timedOut, "lost"))) == .failsAskAnother)
        #expect(ServerVerdict(.pathLost(nil)) == .failsAskAnother)
    }

    @Test func neverAreAllEjected() {
        var choice = up("a", "b", "c")
        var ejected: [String] = []
        for _ in 0..<10 {
            for server in ["a", "b", "c"] where choice.failed(server, now: second) != nil { ejected.append(server) }
        }
        #expect(ejected.count == 2)
        #expect(give(2, &choice, now: second).count == 1)
        // The one that is left is lost: those that are up are better than none.
        #expect(choice.wentDown("c", lost, now: 2 * second) == true)
        #expect(give(4, &choice, now: 2 * second) == ["a": 2, "b": 2])
        // Nor the only one.
        var single = up("a")
        for _ in 0..<20 { #expect(single.failed("a", now: second) == nil) }
    }

    @Test func whenAllAreDownTheErrorNamesThem() {
        var choice = ServerChoice(["a:1", "b:2"])
        _ = choice.wanted(now: 0)
        #expect(choice.wentDown("a:1", StreamError(.refused, "refused"), now: 1) == false)
        #expect(!choice.isDown)
        #expect(choice.wentDown("b:2", StreamError(.timedOut, "silent"), now: 1) == false)
        #expect(choice.isDown)
        #expect(choice.error.code == .unreachable)
        #expect(choice.error.message == "none of the 2 servers works (a:1: refused; b:2: silent)")
        // Somebody waits: no pause.
        #expect(choice.wanted(now: 2) == ["a:1", "b:2"])
        // Who is not who it must be is no matter of reachability.
        _ = choice.wentDown("a:1", StreamError(.authentication, "somebody else"), now: 3)
        _ = choice.wentDown("b:2", StreamError(.refused, "refused"), now: 3)
        #expect(choice.error.code == .authentication)
    }

    @Test func whatWasLetGoIsConnectedWhenItIsWanted() {
        var choice = up("a", "b")
        choice.rested("a")
        #expect(!choice.isDown)
        #expect(choice.wanted(now: second) == ["a"])
        choice.released()
        #expect(choice.isDown)
        #expect(choice.nextDeadline == nil)
        #expect(choice.wanted(now: second) == ["a", "b"])
        choice.cameUp("a", now: second)
        choice.replace(with: ["b", "c"])
        #expect(choice.wanted(now: second) == ["c"])
    }
}
