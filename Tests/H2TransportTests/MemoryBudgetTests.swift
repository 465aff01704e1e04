import Glibc
import TestPeers
import Testing

@testable import H2Transport

/// What all connections hold together.
@Suite(.serialized, .timeLimit(.minutes(1))) struct MemoryBudgetTests {
    /// Bytes of this process in memory.
    private func resident() throws -> Int {
        let file = try #require(fopen("/proc/self/statm", "r"))
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 256)
        _ = try #require(fgets(&line, 255, file))
        let words = String(decoding: line.map { UInt8(bitPattern: $0) }, as: UTF8.self).split(separator: " ")
        return try #require(Int(words[1])) * 4096
    }

    @Test("what a flood leaves in the allocator goes back to the system")
    func givenBack() async throws {
        let (size, count) = (4096, 100_000)
        let before = try resident()
        var blocks: [UnsafeMutableRawPointer] = []
        for _ in 0..<count {
            let block = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 64)
            memset(block, 1, size)
            blocks.append(block)
        }
        #expect(try resident() - before > size * count * 3 / 4)
        let budget = H2MemoryBudget(limit: 1 << 30)
        budget.changed(by: size * count, to: size * count)
        // What stays here and there keeps the allocator from giving the rest back by itself.
        for (index, block) in blocks.enumerated() where index % 1000 != 999 { block.deallocate() }
        budget.changed(by: -size * count, to: 0)
        try await eventually("the process is small again") { try resident() - before < size * count / 2 }
        for (index, block) in blocks.enumerated() where index % 1000 == 999 { block.deallocate() }
        #expect(budget.held == 0)
    }
}
