import Platform
import Streams
import Testing

@testable import H2Transport

/// The rules of a group of connections, without any.
@Suite struct ConnectionGroupTests {
    final class Line: GroupedConnection {
        var limit: Int
        var streamCount = 0
        var isDraining = false
        var isWindowStalled = false
        var isSettled: Bool
        var hasServed: Bool
        var doubt: StreamError?
        var takesMoreAt: UInt64?
        var availableStreams: Int { isDraining || doubt != nil ? 0 : max(0, limit - streamCount) }

        init(limit: Int = 100, isSettled: Bool = true, hasServed: Bool = true) {
            self.limit = limit
            self.isSettled = isSettled
            self.hasServed = hasServed
        }
    }

    typealias Group = ConnectionGroup<Line, Int>

    /// Carries steps out, and writes them down.
    struct Bench {
        var group: Group
        var now: UInt64 = 0
        var log: [String] = []
        var lines: [Line] = []

        init(_ change: (inout Group.Rules) -> Void = { _ in }) {
            var rules = Group.Rules()
            change(&rules)
            group = Group(rules)
        }

        mutating func run() -> [String] {
            log = []
            while let step = group.next(now: now) {
                switch step {
                case .start(let item, let line):
                    line.streamCount += 1
                    log.append("start \(item.request) on \(number(line))")
                case .fail(let request, let error): log.append("fail \(request): \(error.code)")
                case .dial: log.append("dial")
                case .retire(let line):
                    line.isDraining = true
                    log.append("retire \(number(line))")
                case .close(let line, _):
                    line.isDraining = true
                    log.append("close \(number(line))")
                case .giveUp(let line):
                    line.isDraining = true
                    log.append("give up \(number(line))")
                case .askOwner: log.append("ask")
                case .down(let loss): log.append("down \(loss.reason.map { "\($0.code)" } ?? "at rest")")
                }
            }
            return log
        }

        private func number(_ line: Line) -> Int { lines.firstIndex { $0 === line } ?? -1 }

        mutating func ask(_ requests: ClosedRange<Int>) -> [String] {
            var started: [String] = []
            for request in requests {
                if case .start(let line) = group.admit(request, now: now) {
                    line.streamCount += 1
                    started.append("start \(request) on \(number(line))")
                }
            }
            return started + run()
        }

        mutating func dialed(_ line: Line) -> [String] {
            lines.append(line)
            _ = group.dialed(line, now: now)
            return run()
        }

        mutating func drained(_ line: Line) -> [String] {
            line.isDraining = true
            group.drained(line, now: now)
            return run()
        }

        mutating func ended(_ line: Line, _ error: StreamError? = nil, lost: Int = 0) -> [String] {
            line.isDraining = true
            line.streamCount = 0
            group.ended(line, error, lostStreams: lost, now: now)
            return run()
        }

        /// A stream of `line` ends, or its limit has changed.
        mutating func freed(_ line: Line, ending count: Int = 0) -> [String] {
            line.streamCount -= count
            let comesUp = group.hasCapacity(line, now: now)
            return (comesUp ? ["up"] : []) + run()
        }

        mutating func pass(_ time: Duration) -> [String] {
            now += time.nanoseconds
            return run()
        }
    }

    private static func path(_ rules: inout Group.Rules) {
        rules.keeping = .ready(askAfter: .seconds(300))
        rules.attempts = 3
    }

    // MARK: Room

    @Test(
        "before SETTINGS one stream, and no other connection; after them as many as the peer allows, the rest elsewhere"
    )
    func burst() {
        var bench = Bench()
        #expect(bench.ask(1...40) == ["dial"])
        let first = Line(limit: 1, isSettled: false)
        #expect(bench.dialed(first) == ["start 1 on 0"])
        first.isSettled = true
        first.limit = 10
        #expect(bench.freed(first) == (2...10).map { "start \($0) on 0" } + ["dial"])
        #expect(bench.dialed(Line(limit: 10)) == (11...20).map { "start \($0) on 1" } + ["dial"])
        #expect(bench.dialed(Line(limit: 100)) == (21...40).map { "start \($0) on 2" })
    }

    @Test("a peer that sends no SETTINGS is given up")
    func silentPeer() {
        var bench = Bench()
        _ = bench.ask(1...2)
        #expect(bench.dialed(Line(limit: 1, isSettled: false)) == ["start 1 on 0"])
        #expect(bench.group.nextDeadline(now: 0) == 15_000_000_000)
        #expect(bench.pass(.seconds(15)).first == "give up 0")
    }

    @Test("at the limit of connections, requests wait for a stream to end")
    func fullGroup() {
        var bench = Bench { $0.connections = 1 }
        _ = bench.ask(1...2)
        let line = Line(limit: 1)
        #expect(bench.dialed(line) == ["start 1 on 0"])
        #expect(bench.freed(line, ending: 1) == ["start 2 on 0"])
    }

    @Test("a stalled connection takes a stream only where there can be no other")
    func stalled() {
        var bench = Bench { $0.connections = 2 }
        _ = bench.ask(1...1)
        let first = Line()
        _ = bench.dialed(first)
        first.isWindowStalled = true
        #expect(bench.ask(2...2) == ["dial"])
        let second = Line()
        #expect(bench.dialed(second) == ["start 2 on 1"])
        second.isWindowStalled = true
        #expect(bench.ask(3...3) == ["start 3 on 0"])
    }

    @Test(
        "a further connection that cannot be made: the stalled one will do, and the next attempt is made after a pause"
    )
    func furtherDialFails() {
        var bench = Bench()
        _ = bench.ask(1...1)
        let first = Line()
        _ = bench.dialed(first)
        first.isWindowStalled = true
        var dials = bench.ask(2...2).count
        while dials < 10 {
            bench.group.dialFailed(StreamError(.refused, "no"), now: bench.now)
            let steps = bench.run()
            if steps == ["start 2 on 0"] { break }
            #expect(steps == ["dial"])
            dials += 1
        }
        #expect(dials == 2)
        #expect(bench.ask(3...3) == ["start 3 on 0"])
    }

    @Test("a connection is lost before the answer: another one is asked; after so many attempts nobody")
    func refused() {
        var bench = Bench { $0.attempts = 2 }
        _ = bench.ask(1...1)
        let first = Line()
        _ = bench.dialed(first)
        let item = Group.Waiting(request: 1, since: 0)
        let waitsAgain = bench.group.requeue(item, refusedBy: first, isRefusal: false, now: 0)
        #expect(waitsAgain)
        #expect(bench.run() == ["dial"])
        #expect(bench.dialed(Line()) == ["start 1 on 1"])
        var again = item
        again.attempts = 1
        let waitsOnceMore = bench.group.requeue(again, refusedBy: bench.lines[1], isRefusal: false, now: 0)
        #expect(!waitsOnceMore)
    }

    @Test("REFUSED_STREAM: however often, another connection is asked, or the same one when it has room")
    func refusals() {
        var bench = Bench {
            $0.connections = 1
            $0.attempts = 2
        }
        _ = bench.ask(1...1)
        let line = Line()
        _ = bench.dialed(line)
        let item = Group.Waiting(request: 2, since: 0)
        for round in 1...9 {
            line.limit = line.streamCount
            line.takesMoreAt = bench.now + 1_000_000_000
            let waits = bench.group.requeue(item, refusedBy: line, isRefusal: true, now: bench.now)
            #expect(waits, "round \(round)")
            #expect(bench.run() == [])
            #expect(bench.group.nextDeadline(now: bench.now) == line.takesMoreAt)
            line.limit += 1
            #expect(bench.pass(.seconds(1)) == ["start 2 on 0"])
            line.streamCount -= 1
        }
        // As long as a request may take.
        _ = bench.pass(.seconds(6))
        let waitsOn = bench.group.requeue(item, refusedBy: line, isRefusal: true, now: bench.now)
        #expect(!waitsOn)
    }

    @Test("how many streams a peer takes that refuses some: no more than it took, and more as it answers")
    func allowance() {
        var allowance = StreamAllowance()
        #expect(!allowance.isLimited)
        // One burst.
        for _ in 0..<700 { allowance.refused(open: 300, now: 0) }
        #expect(allowance.limit(announced: 1000, now: 0) == 300)
        #expect(allowance.triesAt == 50_000_000)
        #expect(allowance.limit(announced: 1000, now: 50_000_000) == 375)
        allowance.refused(open: 0, now: 50_000_000)
        #expect(allowance.triesAt == 150_000_000)
        #expect(allowance.limit(announced: 1000, now: 149_999_999) == 0)
        #expect(allowance.limit(announced: 1000, now: 150_000_000) == 1)
        for _ in 0..<10 { allowance.answered(announced: 22) }
        #expect(allowance.limit(announced: 22, now: 0) == 20)
        allowance.answered(announced: 22)
        #expect(!allowance.isLimited)
    }

    /// Quadratic, this took minutes.
    @Test("many who wait, and a connection that came to nothing: each is looked at once", .timeLimit(.minutes(10)))
    func manyWaiting() async {
        // Not on a thread of the pool, which other tests need.
        let (failed, count) = await withCheckedContinuation { continuation in
            startThread { continuation.resume(returning: Self.failMany()) }
        }
        #expect(failed == count - 1)
    }

    private static func failMany() -> (failed: Int, count: Int) {
        let count = 300_000
        var rules = Group.Rules()
        rules.attempts = 1
        rules.waitingRequests = count
        var group = Group(rules)
        let line = Line(limit: 0, hasServed: false)
        _ = group.dialed(line, now: 0)
        // What it has refused counts no attempt; it stays, and those behind it go.
        _ = group.requeue(Group.Waiting(request: 1, since: 0), refusedBy: line, isRefusal: true, now: 0)
        for request in 2...count { _ = group.admit(request, now: 0) }
        line.isDraining = true
        group.drained(line, now: 0)
        var failed = 0
        while case .fail? = group.next(now: 0) { failed += 1 }
        return (failed, count)
    }

    // MARK: Doubt

    private static let doubt = StreamError(.timedOut, "no answer to PING")

    @Test("a peer in doubt keeps its streams, and nobody is told while nobody wants another one")
    func quietDoubt() {
        var bench = Bench(Self.path)
        _ = bench.ask(1...1)
        let line = Line()
        #expect(bench.dialed(line) == ["start 1 on 0"])
        line.doubt = Self.doubt
        bench.group.doubted(line, isWanted: false)
        #expect(bench.run() == [])
        #expect(bench.pass(.seconds(2)) == [])
        line.doubt = nil
        #expect(bench.freed(line) == [])
        #expect(bench.ask(2...2) == ["start 2 on 0"])
    }

    @Test("who wants a stream of a peer in doubt is told, and what is open stays; an answer brings the path back")
    func doubt() {
        for waitsForAnswer in [true, false] {
            var bench = Bench(Self.path)
            _ = bench.ask(1...1)
            let line = Line()
            #expect(bench.dialed(line) == ["start 1 on 0"])
            line.doubt = Self.doubt
            bench.group.doubted(line, isWanted: waitsForAnswer)
            if waitsForAnswer {
                #expect(bench.run() == ["down timedOut"])
            } else {
                #expect(bench.ask(2...2) == ["fail 2: timedOut", "down timedOut"])
            }
            #expect(!bench.group.isUp)
            #expect(bench.group.streamCount == 1)
            // The owner asks for another connection.
            bench.group.seek()
            #expect(bench.run() == ["dial"])
            line.doubt = nil
            #expect(bench.freed(line) == ["up"])
            #expect(bench.group.isUp)
            #expect(bench.ask(3...3) == ["start 3 on 0"])
            // The dial's end is no news.
            bench.group.dialFailed(StreamError(.timedOut, "no"), now: bench.now)
            #expect(bench.run() == [])
        }
    }

    @Test("a peer in doubt that is dead after all: the connection that replaced it stays")
    func deadAfterDoubt() {
        var bench = Bench(Self.path)
        _ = bench.ask(1...1)
        let old = Line()
        _ = bench.dialed(old)
        old.doubt = Self.doubt
        #expect(bench.ask(2...2) == ["fail 2: timedOut", "down timedOut"])
        bench.group.seek()
        #expect(bench.run() == ["dial"])
        #expect(bench.dialed(Line()) == [])
        #expect(bench.ask(3...3) == ["start 3 on 1"])
        #expect(bench.ended(old, Self.doubt, lost: 1) == [])
        #expect(bench.group.isUp)
    }

    @Test("a connection in doubt whose last stream ends is let go")
    func idleInDoubt() {
        var bench = Bench(Self.path)
        _ = bench.ask(1...1)
        let line = Line()
        _ = bench.dialed(line)
        line.doubt = Self.doubt
        _ = bench.ask(2...2)
        #expect(bench.freed(line, ending: 1) == ["close 0"])
        #expect(bench.ended(line) == [])
        #expect(bench.group.isUnused)
    }

    // MARK: Ends

    @Test("a peer that ends each connection before it has carried a stream: pauses grow, and nobody waits for ever")
    func storm() {
        var bench = Bench()
        _ = bench.ask(1...1)
        var times: [UInt64] = []
        for _ in 0..<4 {
            let line = Line(isSettled: false, hasServed: false)
            line.limit = 0
            #expect(bench.dialed(line) == [])
            var steps = bench.drained(line)
            if steps == [] {
                // After a pause.
                bench.now = bench.group.nextDeadline(now: bench.now) ?? 0
                steps = bench.run()
            }
            times.append(bench.now)
            if steps.contains("fail 1: draining") { break }
            #expect(steps == ["dial"])
            #expect(bench.ended(line) == [])
        }
        #expect(times == [0, 100_000_000, 300_000_000, 300_000_000])
        // The next one waits for the pause, once somebody asks.
        #expect(bench.pass(.milliseconds(1)) == [])
        #expect(bench.ask(2...2) == [])
        #expect(bench.group.nextDeadline(now: bench.now) == 700_000_000)
    }

    @Test("only a connection that lasts makes up for those before")
    func backoff() {
        var backoff = DialBackoff()
        for _ in 0..<8 { backoff.failed(now: 0) }
        #expect(backoff.notBefore == 1_000_000_000)
        backoff.lasted(from: 0, to: Duration.seconds(59).nanoseconds)
        #expect(backoff.failures == 8)
        let later = Duration.seconds(100).nanoseconds
        // One that is up since before the last failure proves nothing.
        backoff.failed(now: later)
        backoff.failed(now: later &* 2, upSince: 1)
        #expect(backoff.failures == 10)
        backoff.failed(now: later &* 3, upSince: later &* 2)
        #expect(backoff.failures == 1)
        #expect(backoff.notBefore == later &* 3)
    }

    @Test("an idle peer that goes away is at rest, and is not dialled until somebody asks")
    func rest() {
        var bench = Bench(Self.path)
        bench.group.seek()
        #expect(bench.run() == ["dial"])
        let line = Line(hasServed: false)
        #expect(bench.dialed(line) == [])
        #expect(bench.drained(line) == ["down at rest"])
        #expect(bench.ended(line) == [])
        #expect(bench.pass(.seconds(3600)) == [])
        // Told again and again to come back, it does so, each time after a longer pause, and says in the end why not.
        var said: [String] = []
        while said.count < 3 {
            bench.group.seek()
            if bench.run() == [] { bench.now = bench.group.nextDeadline(now: bench.now) ?? 0 }
            let line = Line(hasServed: false)
            _ = bench.dialed(line)
            said += bench.drained(line)
        }
        #expect(said == ["down at rest", "down draining", "down draining"])
    }

    @Test(
        "a connection that its peer drains with streams on it is replaced in a group that is kept ready, and only there"
    )
    func replacedWhenDrained() {
        for isPath in [true, false] {
            var bench = Bench { if isPath { Self.path(&$0) } }
            _ = bench.ask(1...1)
            let old = Line()
            #expect(bench.dialed(old) == ["start 1 on 0"])
            #expect(bench.drained(old) == (isPath ? ["dial"] : ["down at rest"]))
            guard isPath else { continue }
            // The one that replaces it goes as well: that its streams go on is no reason for more.
            let new = Line(hasServed: false)
            _ = bench.dialed(new)
            #expect(bench.drained(new) == ["down at rest"])
            #expect(bench.pass(.seconds(60)) == [])
        }
    }

    @Test("the last connection of a path is lost: who waits is told, and the path is down")
    func lost() {
        var bench = Bench(Self.path)
        _ = bench.ask(1...2)
        let line = Line(limit: 1, isSettled: false)
        #expect(bench.dialed(line) == ["start 1 on 0"])
        let error = StreamError(.timedOut, "no answer to PING")
        #expect(bench.ended(line, error, lost: 1) == ["fail 2: timedOut", "down timedOut"])
    }

    // MARK: Age and idleness

    @Test("a connection that is too old is used until its replacement is up; tried again a minute after a failure")
    func age() {
        var bench = Bench()
        _ = bench.ask(1...1)
        let old = Line()
        _ = bench.dialed(old)
        bench.group.tooOld(old)
        #expect(bench.run() == ["dial"])
        #expect(bench.ask(2...2) == ["start 2 on 0"])
        bench.group.dialFailed(StreamError(.refused, "no"), now: bench.now)
        #expect(bench.run() == [])
        #expect(bench.pass(.seconds(59)) == [])
        #expect(bench.pass(.seconds(1)) == ["dial"])
        #expect(bench.dialed(Line()) == ["retire 0"])
        #expect(bench.ask(3...3) == ["start 3 on 1"])
    }

    @Test("a connection that is too old and has no stream is closed, and not replaced")
    func ageOfAnIdleOne() {
        var bench = Bench(Self.path)
        bench.group.seek()
        _ = bench.run()
        let old = Line()
        _ = bench.dialed(old)
        bench.group.tooOld(old)
        #expect(bench.run() == ["close 0", "down at rest"])
    }

    @Test("idle connections are closed; the last one of a path is for its owner to let go")
    func idle() {
        for isPath in [true, false] {
            var bench = Bench { if isPath { Self.path(&$0) } }
            _ = bench.ask(1...2)
            let (first, second) = (Line(limit: 1), Line(limit: 1))
            #expect(bench.dialed(first) == ["start 1 on 0", "dial"])
            #expect(bench.dialed(second) == ["start 2 on 1"])
            #expect(bench.freed(second, ending: 1) == [])
            #expect(bench.pass(.seconds(299)) == [])
            #expect(bench.pass(.seconds(1)) == ["close 1"])
            _ = bench.ended(second)
            #expect(bench.freed(first, ending: 1) == [])
            #expect(bench.pass(.seconds(300)) == (isPath ? ["ask"] : ["close 0", "down at rest"]))
            if isPath { #expect(bench.group.nextDeadline(now: bench.now) == bench.now + 300_000_000_000) }
        }
    }
}
