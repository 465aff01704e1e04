import TestPeers
import Testing

@testable import H2Transport

@Suite struct StreamTableTests {
    private final class Item {
        let id: Int32
        init(_ id: Int32) { self.id = id }
    }

    /// Whatever happens to it, it holds what a dictionary holds.
    @Test func itIsADictionary() {
        var fuzzer = Fuzzer("stream table")
        var count = 0
        while fuzzer.goesOn(count, of: 200) {
            count += 1
            var table = StreamTable<Item>()
            var model: [Int32: Item] = [:]
            let step = Int32(1 + fuzzer.below(64))
            for round in 0..<400 {
                let id = 1 + step * Int32(fuzzer.below(round < 200 ? 101 : 21))
                if fuzzer.below(5) < (round < 200 ? 3 : 1) {
                    let item = Item(id)
                    table[id] = item
                    model[id] = item
                } else if fuzzer.below(2) == 0 {
                    #expect(table.removeValue(forKey: id) === model.removeValue(forKey: id))
                } else {
                    table[id] = nil
                    model[id] = nil
                }
                #expect(table.count == model.count && table.isEmpty == model.isEmpty)
                #expect(table[id] === model[id])
            }
            for id in 0...(step * 101) { #expect(table[id] === model[id]) }
            #expect(Set(table.keys) == Set(model.keys) && table.keys.count == model.count)
            #expect(Set(table.values.map(\.id)) == Set(model.keys))
        }
    }

    /// As a connection uses it: many streams one after the other, and a crowd that goes.
    @Test func streamsComeAndGo() {
        var table = StreamTable<Item>()
        for id in stride(from: 1, to: 200_001, by: 2) as StrideTo<Int32> {
            table[id] = Item(id)
            if id > 32 { #expect(table.removeValue(forKey: id - 32)?.id == id - 32) }
        }
        #expect(table.count == 16)
        for id in 1...20_000 as ClosedRange<Int32> { table[id << 12 | 1] = Item(id) }
        #expect(table[1 << 12 | 1]?.id == 1 && table[20_000 << 12 | 1]?.id == 20_000 && table[3] == nil)
        for id in table.keys { table[id] = nil }
        #expect(table.isEmpty && table.values.isEmpty && table[1] == nil)
        table[Int32.max] = Item(7)
        #expect(table[Int32.max]?.id == 7 && table.count == 1)
    }
}
