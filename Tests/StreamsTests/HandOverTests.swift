import TestPeers
import Testing

@testable import Streams

@Suite("Which loop a connection is handed to", .timeLimit(.minutes(10)))
struct HandOverTests {
    private static let millisecond: UInt64 = 1_000_000

    @Test("many that come while few are open are short; as many that stay are not")
    func shortLived() {
        var crowd = ShortLivedConnections()
        var answers: [Bool] = []
        // 100 come within 100 ms, with never more than five open.
        for number in 0..<100 {
            answers.append(crowd.accepted(now: (1000 + UInt64(number)) * Self.millisecond, open: 5))
        }
        #expect(answers.prefix(10).allSatisfy { !$0 })
        #expect(answers.dropFirst(10).allSatisfy { $0 })
        // What is known of the interval before still holds in the next one, and no longer.
        let next = crowd.accepted(now: 1101 * Self.millisecond, open: 5)
        let later = crowd.accepted(now: 1400 * Self.millisecond, open: 5)
        #expect(next)
        #expect(!later)

        var staying = ShortLivedConnections()
        var isEverShort = false
        for number in 0..<1000 where staying.accepted(now: 1000 * Self.millisecond, open: 2 + number) {
            isEverShort = true
        }
        #expect(!isEverShort)
    }

    @Test("a loop is busy when it uses nearly all of a processor, not when it waits for one")
    func load() {
        var load = LoopLoad()
        load.see(used: 95 * Self.millisecond, elapsed: 100 * Self.millisecond)
        #expect(load.isHigh)
        load.see(used: 95 * Self.millisecond + 50 * Self.millisecond, elapsed: 100 * Self.millisecond)
        #expect(!load.isHigh)
    }

    @Test("short connections stay on the loop that accepts them while it has time; the first ones are spread")
    func kept() async throws {
        let group = EventLoopGroup(count: 2)
        let loop = group.loops[0]
        let names = Lock<[String]>([])
        let listener = try await ListenerTests.greeter(
            try ListenerTests.loopback(),
            on: loop,
            spreadOver: group.loops
        ) { socket in
            names.withLock { $0.append(socket.loop.name) }
        }
        let address = try await loop.execute { listener.withValue(\.localAddress) }
        // Each is over before the next one comes. How many of them fall into one interval is the machine's affair, so
        // it goes on until one pair in a row was kept: round robin never gives the same loop twice.
        var isKept = false
        for _ in 0..<100_000 where !isKept {
            #expect(greeting(from: address) == "hello")
            isKept = names.withLock { $0.count >= 2 && $0.suffix(2).allSatisfy { $0 == loop.name } }
        }
        #expect(isKept)
        #expect(Set(names.withLock { $0.prefix(2) }).count == 2)
        try await loop.execute { listener.withValue { $0.close() } }
        await group.shutDown()
    }
}
