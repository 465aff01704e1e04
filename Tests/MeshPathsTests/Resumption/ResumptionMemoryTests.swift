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
        let (greedy, second) = (try Self.peer("greedy"), try Self.peer("second"))
        #expect(directory.room(for: greedy, holding: 0) == Self.memory)
        directory.account(Self.memory / 2, of: greedy)
        #expect(directory.isFull(for: greedy) && !directory.isFull(for: second))
        #expect(directory.room(for: greedy, holding: 1 << 20) == 0)
        #expect(directory.room(for: second, holding: 0) == Self.memory / 2)
        directory.account(Self.memory / 4, of: second)
        #expect(directory.isFull(for: second) && directory.room(for: second, holding: 1 << 20) == 0)
        #expect(directory.room(for: nil, holding: 1 << 20) == Self.memory / 4)

        directory.account(-Self.memory / 2, of: greedy)
        #expect(directory.room(for: second, holding: 1 << 20) == Self.memory / 2)
        directory.account(-Self.memory / 4, of: second)
        #expect(directory.held == 0 && directory.room(for: second, holding: 0) == Self.memory)
    }

    @Test("each stream may keep a little where the share is used up, until its peer holds everything") func least()
        throws
    {
        let directory = ResumptionDirectory(memory: Self.memory)
        let (greedy, second) = (try Self.peer("greedy"), try Self.peer("second"))
        directory.account(Self.memory - 1, of: greedy)
        #expect(directory.room(for: greedy, holding: 0) == 128 << 10)
        #expect(directory.room(for: greedy, holding: 100 << 10) == 28 << 10)
        #expect(directory.room(for: greedy, holding: 128 << 10) == 0)
        directory.account(1, of: greedy)
        #expect(directory.room(for: greedy, holding: 0) == 0)
        #expect(directory.room(for: second, holding: 0) == 128 << 10)
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
