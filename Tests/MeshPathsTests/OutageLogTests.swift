import Streams
import Testing

@testable import MeshPaths

/// However many connections somebody tries during an outage: one line when it begins, and one when it ends.
@Suite struct OutageLogTests {
    private let second: UInt64 = 1_000_000_000
    private let nowhere = StreamError(.unreachable, "unreachable on every path")

    @Test func anOutageIsTwoLines() {
        var log = OutageLog()
        #expect(log.up(at: 0) == "")
        #expect(log.unreachable(nowhere, at: 10 * second)?.hasPrefix("unreachable on every path") == true)
        for _ in 0..<20 {
            #expect(log.failed(.notOpened("localhost:80", nowhere)) == nil)
            #expect(log.unreachable(nowhere, at: 11 * second) == nil)
        }
        #expect(log.up(at: 22 * second) == " (unreachable for 12 s, 20 connections were refused)")
        #expect(log.up(at: 23 * second) == "")
        #expect(log.failed(.notOpened("localhost:80", nowhere))?.hasPrefix("no stream to localhost:80: ") == true)
    }

    /// A path takes its streams with it, for one reason; a stream that the peer resets is another matter.
    @Test func streamsThatAreCutTogetherAreCounted() {
        var log = OutageLog()
        let lost = StreamError(.truncated, "the connection was lost")
        #expect(log.failed(.cut("a:1", lost)) == "stream to a:1 cut: the connection was lost")
        #expect(log.failed(.cut("a:1", lost)) == nil)
        #expect(log.failed(.cut("b:2", lost)) == nil)
        #expect(log.up(at: 0) == " (2 more streams were cut)")
        let reset = StreamError(.reset, "reset by the peer")
        for _ in 0..<2 { #expect(log.failed(.cut("a:1", reset)) == "stream to a:1 cut: reset by the peer") }
    }
}
