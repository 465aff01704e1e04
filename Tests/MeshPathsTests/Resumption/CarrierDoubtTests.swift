import Testing

@testable import MeshPaths

/// A stream is led away from what does not answer, and not from what has answered after all.
@Suite struct CarrierDoubtTests {
    @Test func itEndsWithWhateverComesNext() {
        var doubt = CarrierDoubt()
        #expect(!doubt.holds(heard: 0), "nobody has doubted it")
        doubt.begin(heard: 7)
        #expect(doubt.holds(heard: 7))
        #expect(!doubt.holds(heard: 8), "something has come")
    }

    @Test func itBeginsAnewWithEachSilence() {
        var doubt = CarrierDoubt()
        doubt.begin(heard: 7)
        doubt.begin(heard: 9)
        #expect(doubt.holds(heard: 9) && !doubt.holds(heard: 10))
    }

    @Test func anotherCarrierIsInNoDoubt() {
        var doubt = CarrierDoubt()
        doubt.begin(heard: 7)
        doubt.end()
        #expect(!doubt.holds(heard: 7))
    }
}
