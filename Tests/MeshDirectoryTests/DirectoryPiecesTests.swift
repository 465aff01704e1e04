import Testing

@testable import MeshDirectory

@Suite struct DirectoryPiecesTests {
    private func lines(_ count: Int) -> [String] {
        (0..<count).map {
            "- {name: \"dev\($0)\", identity: \"spiffe://mesh.example/ns/prod/sa/dev\($0)\", hbone: [\"10.0.\($0 / 250).\($0 % 250):15008\"]}\n"
        }
    }

    private func cut(_ lines: [String]) -> [ArraySlice<UInt8>] { DirectoryPieces.cut(Array(lines.joined().utf8)) }

    @Test func piecesAreTheContent() {
        let all = lines(5000)
        let pieces = cut(all)
        #expect(pieces.flatMap { $0 } == Array(all.joined().utf8))
        #expect(pieces.allSatisfy { $0.count <= DirectoryPieces.maximum })
        #expect((20...100).contains(pieces.count))
        #expect(DirectoryPieces.cut([]).isEmpty)
    }

    @Test func aChangeOfOneLineChangesFewPieces() {
        let all = lines(5000)
        let before = Set(cut(all).map(Array.init))
        for place in [0, 17, 2500, 4999] {
            var changed = all
            changed.remove(at: place)
            #expect(cut(changed).filter { !before.contains(Array($0)) }.count <= 2)
            changed.insert("- {name: \"other\"}\n", at: place)
            #expect(cut(changed).filter { !before.contains(Array($0)) }.count <= 2)
        }
    }

    @Test func oneLongLineIsCutAsWell() {
        let pieces = DirectoryPieces.cut([UInt8](repeating: 0x61, count: 3 * DirectoryPieces.maximum + 1))
        #expect(pieces.map(\.count) == [65536, 65536, 65536, 1])
    }
}
