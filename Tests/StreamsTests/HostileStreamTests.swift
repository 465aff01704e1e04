import Streams
import TestPeers
import Testing

@Suite("HostileStream", .timeLimit(.minutes(10)))
struct HostileStreamTests {
    @Test("delivers every byte in order over memory, whatever it does to the calls", arguments: 0..<8)
    func overMemory(seed: UInt64) async throws {
        try await withLoop { loop in
            let outcomes: [Talker.Outcome] = try await onLoop(loop) { scenario in
                let behavior: HostileStream.Behavior = seed % 2 == 0 ? .oneByte(seed: seed) : .ragged(seed: seed)
                let (first, second) = HostileStream.pair(on: loop, behavior, capacity: seed < 4 ? 7 : 10_000)
                let talkers = [
                    Talker(first, sending: 5000, seed: 1, expecting: 2),
                    Talker(second, sending: 4000, seed: 2, expecting: 1),
                ]
                scenario.keep(first)
                scenario.keep(second)
                awaitAll(talkers) { outcomes in
                    #expect(first.interferences > 10)
                    scenario.complete(outcomes)
                }
                for talker in talkers { talker.start() }
            }
            #expect(outcomes[0] == .init(sent: 5000, received: 4000, sawEnd: true))
            #expect(outcomes[1] == .init(sent: 4000, received: 5000, sawEnd: true))
        }
    }

    @Test("the same seed interferes in the same way")
    func repeats() async throws {
        func run() async throws -> Int {
            try await withLoop { loop in
                try await onLoop(loop) { scenario in
                    let (first, second) = HostileStream.pair(on: loop, .ragged(seed: 99))
                    let talkers = [
                        Talker(first, sending: 5000, seed: 1, expecting: 2),
                        Talker(second, sending: 5000, seed: 2, expecting: 1),
                    ]
                    awaitAll(talkers) { _ in scenario.complete(first.interferences) }
                    for talker in talkers { scenario.keep(talker).start() }
                }
            }
        }
        let (one, two) = (try await run(), try await run())
        #expect(one == two)
    }

    @Test("a cut after 1,000 bytes is a reset or an end for both sides, after exactly 1,000 bytes")
    func cuts() async throws {
        for kind in [HostileStream.Behavior.Cut.Kind.reset, .end] {
            for isReadCut in [true, false] {
                let outcomes: [Talker.Outcome] = try await withLoop { loop in
                    try await onLoop(loop) { scenario in
                        let (inner, plain) = MemoryStream.pair(on: loop)
                        var behavior = HostileStream.Behavior.ragged(seed: 5, longest: 100)
                        if isReadCut {
                            behavior.readCut = .init(at: 1000, kind)
                        } else {
                            behavior.writeCut = .init(at: 1000, kind)
                        }
                        let hostile = HostileStream(over: inner, behavior)
                        // The side that is not cut keeps its direction open, so that only the cut can end it.
                        let cut = Talker(hostile, sending: 1_000_000, seed: 1, expecting: 2)
                        let other = Talker(plain, sending: 1_000_000, seed: 2, expecting: 1)
                        awaitAll([cut, other]) { scenario.complete($0) }
                        scenario.keep(cut).start()
                        scenario.keep(other).start()
                    }
                }
                let transferred = isReadCut ? outcomes[0].received : outcomes[0].sent
                #expect(transferred == 1000)
                #expect(outcomes[0].failure?.code == .reset)
                #expect(outcomes[0].sawEnd == (kind == .end && isReadCut))
                // Whoever is cut off by an end reads the end, and learns of the reset when it writes on.
                #expect(outcomes[1].failure?.code == .reset)
                #expect(outcomes[1].firstWrongByte == nil)
            }
        }
    }
}
