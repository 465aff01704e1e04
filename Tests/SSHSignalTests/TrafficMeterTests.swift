import Testing

@testable import SSHSignal

/// What a stream carries, by the sizes of its pieces.
@Suite struct TrafficMeterTests {
    /// What is told while pieces of these sizes pass.
    private func verdicts(_ sizes: [Int]) -> [StreamTraffic] {
        var meter = TrafficMeter()
        return sizes.compactMap { meter.count($0) }
    }

    @Test func largePiecesAreBulkOnceThereAreEnough() {
        #expect(verdicts(Array(repeating: 65_536, count: 127)).isEmpty)
        #expect(verdicts(Array(repeating: 65_536, count: 128)) == [.bulk])
        #expect(verdicts([8 << 20]) == [.bulk])
        // Between them the answers to requests.
        let requests = (0..<1024).flatMap { _ in [300, 16_384] }
        #expect(verdicts(requests) == [.bulk])
    }

    @Test func smallPiecesAreMessages() {
        #expect(verdicts(Array(repeating: 64, count: 63)).isEmpty)
        #expect(verdicts(Array(repeating: 64, count: 100_000)) == [.messages])
        // Never enough for bulk, however long it lasts.
        #expect(verdicts(Array(repeating: 2000, count: 100_000)) == [.messages])
    }

    @Test func whatBeginsWithMessagesMayBecomeBulk() {
        let small = Array(repeating: 64, count: 64)
        let large = Array(repeating: 32_768, count: 320)
        #expect(verdicts(small + large) == [.messages, .bulk])
        // The end of a transfer is small pieces.
        #expect(verdicts(large + small + small) == [.bulk])
    }
}
