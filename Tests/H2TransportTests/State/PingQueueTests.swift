import Testing

@testable import H2Transport

@Suite struct PingQueueTests {
    @Test("the answer to a probe that another byte has answered measures the round trip, and is no flood")
    func lateAnswer() {
        var pings = PingQueue()
        for sentAt: UInt64 in [10, 20] {
            let id = pings.nextID()
            pings.append(.init(id: id, sentAt: sentAt, acceptsAnyByte: true, completion: { _ in }))
        }
        #expect(pings.takeProbe()?.id == 1 && pings.takeProbe()?.id == 2 && pings.isEmpty)
        #expect(pings.takeAnswered(1) == nil, "only the last one is remembered")
        #expect(pings.takeAnswered(2) == 20)
        #expect(pings.takeAnswered(2) == nil, "an answer that comes twice was not asked for")
    }
}
