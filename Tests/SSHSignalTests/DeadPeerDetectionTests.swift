import Testing

@testable import SSHSignal

/// When a silent server is asked, and when it counts as lost.
@Suite struct DeadPeerDetectionTests {
    private let second: UInt64 = 1_000_000_000

    @Test func anIdleConnectionIsAskedAfterTheLongSilence() {
        var detection = DeadPeerDetection(.init(), now: second)
        #expect(detection.firstPause == .seconds(15))
        #expect(detection.fired(at: 11 * second, hasStreams: true) == .wait(.seconds(5)))
        #expect(detection.fired(at: 16 * second, hasStreams: true) == .ask(timeout: .seconds(10)))
    }

    @Test func aServerThatOwesAnAnswerIsAskedAfterTheShortOne() {
        var detection = DeadPeerDetection(.init(), now: second)
        #expect(detection.sent(at: 2 * second, hasStreams: true) == .seconds(3))
        // The timer runs already.
        #expect(detection.sent(at: 3 * second, hasStreams: true) == nil)
        #expect(detection.fired(at: 5 * second, hasStreams: true) == .ask(timeout: .milliseconds(3500)))
    }

    @Test func withoutStreamsNothingIsOwed() {
        var detection = DeadPeerDetection(.init(), now: second)
        #expect(detection.sent(at: 2 * second, hasStreams: false) == nil)
        #expect(detection.fired(at: 6 * second, hasStreams: false) == .wait(.seconds(10)))
    }

    @Test func anyByteIsASignOfLife() {
        var detection = DeadPeerDetection(.init(), now: second)
        detection.asked(at: 16 * second, timeout: .seconds(10))
        detection.received(at: 20 * second)
        #expect(detection.fired(at: 26 * second, hasStreams: true) == .wait(.seconds(9)))
    }

    @Test func aServerThatDoesNotAnswerInTimeIsLost() {
        var detection = DeadPeerDetection(.init(), now: second)
        detection.asked(at: 16 * second, timeout: .seconds(10))
        #expect(detection.fired(at: 20 * second, hasStreams: true) == .wait(.seconds(6)))
        let lost = DeadPeerDetection.Action.lost(silence: .seconds(25), timeout: .seconds(10))
        #expect(detection.fired(at: 26 * second, hasStreams: true) == lost)
    }

    @Test func anIntervalOfZeroNeverAsks() {
        var detection = DeadPeerDetection(.init(interval: .zero, count: 3), now: second)
        #expect(detection.firstPause == nil)
        #expect(detection.sent(at: 2 * second, hasStreams: true) == nil)
        #expect(detection.fired(at: 1000 * second, hasStreams: true) == .wait(nil))
    }
}
