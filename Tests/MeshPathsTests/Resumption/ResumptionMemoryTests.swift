import MeshIdentity
import Testing

@testable import MeshPaths

/// What resumable streams may hold, and how long without an acknowledgement.
@Suite struct ResumptionMemoryTests {
    private static let memory = 64 << 20

    private static func peer(_ name: String) throws -> SPIFFEID {
        try SPIFFEID("spiffe://mesh.example/ns/prod/sa/\(name)")
    }

    @Test("a peer may hold as much as is left, and whoever comes next finds something") func shares() throws {
        let directory = ResumptionDirectory(memory: Self.memory)
        let greedy = directory.share(of: try Self.peer("greedy"))
        let second = directory.share(of: try Self.peer("second"))
        #expect(directory.room(in: greedy, holding: 0) == Self.memory)
        directory.account(Self.memory / 2, in: greedy)
        #expect(directory.isFull(greedy) && !directory.isFull(second))
        #expect(directory.room(in: greedy, holding: 1 << 20) == 0)
        #expect(directory.room(in: second, holding: 0) == Self.memory / 2)
        directory.account(Self.memory / 4, in: second)
        #expect(directory.isFull(second) && directory.room(in: second, holding: 1 << 20) == 0)
        #expect(directory.room(in: directory.share(of: nil), holding: 1 << 20) == Self.memory / 4)

        directory.account(-Self.memory / 2, in: greedy)
        #expect(directory.room(in: second, holding: 1 << 20) == Self.memory / 2)
        directory.account(-Self.memory / 4, in: second)
        #expect(directory.held == 0 && directory.room(in: second, holding: 0) == Self.memory)
    }

    @Test("streams of one peer have one share, which goes with the last of them") func sharesGo() throws {
        let directory = ResumptionDirectory(memory: Self.memory)
        let peer = try Self.peer("one")
        let share = directory.share(of: peer)
        #expect(directory.share(of: try Self.peer("one")) === share && directory.again(share) === share)
        #expect(directory.share(of: nil) !== share && directory.peers == 2)
        directory.account(5, in: share)
        for _ in 0..<2 { directory.giveBack(share) }
        #expect(directory.share(of: peer) === share && directory.held == 5)
        directory.account(-5, in: share)
        for _ in 0..<2 { directory.giveBack(share) }
        #expect(directory.peers == 1)
        #expect(directory.share(of: peer) !== share && directory.room(in: share, holding: 0) == Self.memory)
    }

    @Test("each stream may keep a little where the share is used up, until its peer holds everything") func least()
        throws
    {
        let directory = ResumptionDirectory(memory: Self.memory)
        let greedy = directory.share(of: try Self.peer("greedy"))
        let second = directory.share(of: try Self.peer("second"))
        directory.account(Self.memory - 1, in: greedy)
        #expect(directory.room(in: greedy, holding: 0) == 128 << 10)
        #expect(directory.room(in: greedy, holding: 100 << 10) == 28 << 10)
        #expect(directory.room(in: greedy, holding: 128 << 10) == 0)
        directory.account(1, in: greedy)
        #expect(directory.room(in: greedy, holding: 0) == 0)
        #expect(directory.room(in: second, holding: 0) == 128 << 10)
    }

    /// Less than that is acknowledged by and by: it would stand still for as long each time.
    @Test(
        "where the share is used up, a stream of small writes keeps as much as is acknowledged soon",
        arguments: [1, 1000, 16383, 16384, 100_000]
    ) func smallWrites(size: Int) throws {
        let directory = ResumptionDirectory(memory: Self.memory)
        let share = directory.share(of: try Self.peer("greedy"))
        directory.account(Self.memory - 1, in: share)
        var kept = 0
        while true {
            let room = directory.room(in: share, holding: kept)
            guard ResumableStream.isWorthReading(room, keeping: kept, window: 16 << 20) else { break }
            kept += min(size, room)
        }
        #expect(kept == ResumptionDirectory.least && kept >= Int(ResumptionState.acknowledgementStep))
        // While nothing is used up, it waits for more than crumbs.
        #expect(!ResumableStream.isWorthReading(16383, keeping: 1 << 20, window: 16 << 20))
        #expect(ResumableStream.isWorthReading(1000, keeping: 0, window: 1000))
    }

    @Test("time without an acknowledgement counts while something was sent, on one carrier") func standstill() throws {
        var state = ResumptionState()
        var standstill = ResumptionStandstill()
        #expect(standstill.time(of: state, at: 1_000) == 0)
        state.write(100)
        // Not sent: the carrier takes nothing, which is not the reader's doing.
        #expect(standstill.time(of: state, at: 2_000) == 0)
        #expect(standstill.time(of: state, at: 3_000) == 0)
        state.send(80)
        #expect(standstill.time(of: state, at: 4_000) == 0)
        #expect(standstill.time(of: state, at: 6_000) == 2_000)
        _ = try state.acknowledge(30)
        #expect(standstill.time(of: state, at: 7_000) == 0)
        #expect(standstill.time(of: state, at: 8_000) == 1_000)
        state.detach()
        #expect(standstill.time(of: state, at: 9_000) == 0)
        try state.attach(generation: 1, position: 80)
        #expect(standstill.time(of: state, at: 10_000) == 0)
        #expect(standstill.time(of: state, at: 11_000) == 1_000)
        try state.attach(generation: 2, position: 80)
        #expect(standstill.time(of: state, at: 12_000) == 0)
        _ = try state.acknowledge(80)
        #expect(standstill.time(of: state, at: 20_000) == 0)
    }
}
