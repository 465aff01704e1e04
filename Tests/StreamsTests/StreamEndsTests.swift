import TestPeers
import Testing

@testable import Streams

/// The latch that every byte stream keeps beside its engine.
struct StreamEndsTests {
    @Test func theFirstBytesAreToldToAReaderThatHasNotRead() {
        var ends = StreamEnds()
        expect(ends.wakeReader())
        expect(!ends.wakeReader(), "one notice for one wait")
        expect(ends.blockReader() == .wouldBlock)
        expect(ends.wakeReader())
        var atOnce = StreamEnds(readerWaits: false)
        expect(!atOnce.wakeReader())
    }

    @Test func aWriterWaitsOnlyOnceItWasRefusedOrCutShort() {
        var ends = StreamEnds()
        expect(!ends.wakeWriter())
        expect(ends.accept(7, of: 7) == .bytes(7))
        expect(!ends.wakeWriter())
        expect(ends.accept(3, of: 7) == .bytes(3))
        expect(ends.wakeWriter())
        expect(!ends.wakeWriter(), "one notice for one wait")
        expect(ends.accept(0, of: 7) == .wouldBlock)
        expect(ends.wakeWriter())
        expect(ends.accept(0, of: 0) == .bytes(0), "nothing was offered, so nothing waits")
        expect(!ends.wakeWriter())
        expect(ends.blockWriter() == .wouldBlock)
        expect(ends.wakeWriter())
    }

    @Test func eachDirectionEndsOnItsOwn() {
        var ends = StreamEnds()
        ends.receiveEnd()
        #expect(ends.reading == .ended && ends.isWritable && !ends.areOver)
        expect(ends.deliverEnd() == .end)
        ends.receiveEnd()
        #expect(ends.reading == .delivered, "an end that comes twice does not take back what the reader knows")
        expect(ends.finish())
        expect(!ends.finish(), "a stream is finished once")
        #expect(ends.writing == .finishing && !ends.isWritable && !ends.areOver)
        ends.sentEnd()
        #expect(ends.writing == .finished && ends.areOver)
    }

    @Test func nothingIsSentBeforeItIsFinished() {
        var ends = StreamEnds()
        ends.sentEnd()
        #expect(ends.writing == .open)
    }

    @Test func whoHasLetGoIsToldNothing() {
        var ends = StreamEnds()
        _ = ends.blockReader()
        _ = ends.blockWriter()
        expect(ends.release())
        expect(!ends.release(), "a stream is released once")
        expect(!ends.wakeReader() && !ends.wakeWriter() && !ends.isWritable && !ends.finish())
    }

    @Test func whatWasFinishedBeforeIsStillSentAfterwards() {
        var ends = StreamEnds()
        expect(ends.finish() && ends.release())
        #expect(ends.writing == .finishing)
        ends.sentEnd()
        #expect(ends.writing == .finished)
    }
}

struct RetainedTests {
    private final class Caller {
        var retained = Retained<Caller>()
        init() { retained.hold(self) }
    }

    @Test func nobodyElseNeedsToHoldIt() {
        var made: Caller? = Caller()
        weak let caller = made
        made = nil
        #expect(caller?.retained.isHeld == true)
        caller?.retained.release()
        #expect(caller == nil)
    }
}

/// `#expect` of something that changes the value it asks.
private func expect(_ isTrue: Bool, _ comment: Comment? = nil, sourceLocation: SourceLocation = #_sourceLocation) {
    #expect(isTrue, comment, sourceLocation: sourceLocation)
}
