import Glibc
import TestPeers
import Testing

@testable import H2Transport

/// What all connections hold together.
@Suite(.serialized, .timeLimit(.minutes(10))) struct MemoryBudgetTests {
    /// Whether the page in which `block` begins is in memory. What was unmapped is not.
    private func isResident(_ block: UnsafeMutableRawPointer) -> Bool {
        var page: UInt8 = 0
        let start = UnsafeMutableRawPointer(bitPattern: UInt(bitPattern: block) & ~4095)
        return mincore(start, 4096, &page) == 0 && page & 1 == 1
    }

    @Test("what a flood leaves in the allocator goes back to the system")
    func givenBack() async throws {
        let (size, count) = (4096, 100_000)
        var blocks: [UnsafeMutableRawPointer] = []
        for _ in 0..<count {
            let block = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 64)
            memset(block, 1, size)
            blocks.append(block)
        }
        let whole = blocks.count { isResident($0) }
        #expect(whole == count)
        let budget = H2MemoryBudget(limit: 1 << 30)
        budget.changed(by: size * count, to: size * count)
        // What stays here and there keeps the allocator from giving the rest back by itself.
        for (index, block) in blocks.enumerated() where index % 1000 != 999 { block.deallocate() }
        budget.changed(by: -size * count, to: 0)
        // Other tests may have taken some of it.
        try await eventually("the process is small again") { blocks.count { isResident($0) } < count / 2 }
        for (index, block) in blocks.enumerated() where index % 1000 == 999 { block.deallocate() }
        #expect(budget.held == 0)
    }
}
