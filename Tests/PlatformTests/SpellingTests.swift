import Testing

@testable import Platform

@Suite struct SpellingTests {
    @Test func theNearestWordThatIsNearEnough() {
        let names = ["camera.lan", "door.lan", "dev7"]
        #expect(Spelling.nearest(to: "camra.lan", among: names) == "camera.lan")
        #expect(Spelling.nearest(to: "door.aln", among: names) == "door.lan")
        #expect(Spelling.nearest(to: "dve7", among: names) == "dev7")
        #expect(Spelling.nearest(to: "gateway.example", among: names) == nil)
        #expect(Spelling.nearest(to: "x", among: names) == nil)
        #expect(Spelling.nearest(to: "camera.lan", among: []) == nil)
    }

    @Test func addedRemovedChangedAndSwappedLettersCountOnce() {
        for word in ["statusx", "statu", "statas", "sttaus"] {
            #expect(Spelling.distance(word, "status") == 1, "\(word)")
        }
        #expect(Spelling.distance("", "abc") == 3)
        #expect(Spelling.distance("abc", "abc") == 0)
    }
}
