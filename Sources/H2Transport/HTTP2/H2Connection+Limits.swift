import CNGHTTP2
import Streams

extension H2Connection {
    /// A stream younger than this that is reset counts as an early reset, answered or not.
    private static var youth: UInt64 { 1_000_000_000 }

    /// A client that opens streams only to reset them makes a server dial for nothing (CVE-2023-44487).
    func countEarlyReset(of stream: H2Stream) {
        guard isServer, stream.phase == .requested || loop.now &- stream.requestedAt < Self.youth else { return }
        // A stream that both sides had finished with costs nothing.
        guard !(stream.phase == .open && stream.state.reading == .ended) else { return }
        counters.earlyResetsReceived += 1
        if !earlyResets.take(now: loop.now) { refuse("too many streams were reset before they were used") }
    }

    /// nghttp2 resets a stream on its own when the peer breaks the rules on it: work for nothing as well (CVE-2025-8671).
    func countProvokedReset(_ code: UInt32) {
        if HTTP2ErrorCode(rawValue: code) == .refusedStream {
            counters.streamsRefused += 1
        } else {
            counters.provokedResets += 1
        }
        chargeProvokedWork()
    }

    func chargeProvokedWork() {
        if !provokedResets.take(now: loop.now) { refuse("too many streams had to be reset") }
    }

    func countControlFrame() {
        counters.controlFramesReceived += 1
        if !controlFrames.take(now: loop.now) { refuse("too many control frames") }
    }

    /// What was sent lets the peer give credit: for the stream and the connection, and for each KiB where it reads in small
    /// pieces.
    func expectWindowUpdates(forBytes count: Int) {
        expectedWindowUpdates = min(expectedWindowUpdates + 4 + count >> 10, 65536)
    }

    /// Credit for what was never sent is work for nothing.
    func countWindowUpdate() {
        if expectedWindowUpdates > 0 {
            expectedWindowUpdates -= 1
            return
        }
        counters.excessWindowUpdates += 1
        if !windowUpdates.take(now: loop.now) { refuse("too many WINDOW_UPDATE frames") }
    }

    func receivedInvalidFrame(_ code: Int32) {
        counters.invalidFramesReceived += 1
    }

    /// ENHANCE_YOUR_CALM: GOAWAY is queued and nothing more is read.
    private func refuse(_ reason: String) {
        guard let nghttp2, !closesWhenFlushed else { return }
        counters.floods += 1
        isDraining = true
        closesWhenFlushed = true
        inputHasEnded = true
        closeReason = StreamError(.limit, "\(peerDescription) was cut off: \(reason)")
        _ = nghttp2_session_terminate_session(nghttp2, HTTP2ErrorCode.enhanceYourCalm.rawValue)
    }
}
