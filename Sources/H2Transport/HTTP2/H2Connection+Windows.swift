import CNGHTTP2
import Streams

// Credit: what the peer may send, on the connection and on each stream (RFC 9113 §5.2).
extension H2Connection {
    /// The connection window is replenished at once: each stream is bounded by its own, and a slow one must not stop the
    /// others (RFC 9113 §5.2.2). Only when the readers together leave too much is it held back.
    func creditConnection(_ count: Int) {
        guard count > 0, let nghttp2 else { return }
        if queuedBytes > configuration.limits.queuedBytes {
            if withheldCredit == 0 { counters.windowStalls += 1 }
            withheldCredit += count
            return
        }
        _ = nghttp2_session_consume_connection(nghttp2, count)
    }

    /// How much of a window of `size` the reader must have taken before the peer is told. The less, the more often WINDOW_UPDATE
    /// is sent, each with a system call; the more, the longer the sender stands still on a long path, where what is taken
    /// but not told is missing for a round trip.
    func leastCredit(ofWindow size: Int) -> Int {
        smallestRoundTrip < Self.longRoundTrip ? size / 2 : size / 4
    }

    /// In nanoseconds: a stream's first window of 1 MiB fills 4 Gbit/s below it.
    private static var longRoundTrip: UInt64 { 2_000_000 }

    /// The reader of `stream` has taken `count` bytes more.
    func creditStream(_ stream: H2Stream, _ count: Int) {
        guard let nghttp2 else { return }
        let credit = stream.window.credit(for: count) + fitWindow(of: stream, taken: count)
        // Not `consume_stream`, which waits for half of the window.
        if credit > 0 {
            let flags = UInt8(NGHTTP2_FLAG_NONE.rawValue)
            _ = nghttp2_submit_window_update(nghttp2, flags, stream.id, Int32(clamping: credit))
        }
        releaseWithheldCredit()
        markDirty()
    }

    /// Gives the peer its connection window back once the readers have caught up.
    func releaseWithheldCredit() {
        guard let nghttp2, withheldCredit > 0, queuedBytes <= configuration.limits.queuedBytes / 2 else { return }
        _ = nghttp2_session_consume_connection(nghttp2, withheldCredit)
        withheldCredit = 0
        markDirty()
    }

    /// Returns by how much the window became larger.
    private func fitWindow(of stream: H2Stream, taken: Int) -> Int {
        let windows = configuration.windows
        let largest = min(windows.largestStream, configuration.limits.queuedBytes / 2)
        guard largest > windows.stream, let nghttp2,
            let size = stream.window.took(
                taken,
                at: loop.now,
                roundTrip: smallestRoundTrip,
                in: windows.stream...largest
            )
        else { return 0 }
        if size > stream.window.size {
            // The acknowledgment of SETTINGS includes the time that a new connection takes to settle: a PING knows better.
            measureRoundTrip()
            guard roundTripTime != nil else { return 0 }
            counters.windowsGrown += 1
        }
        counters.largestWindow = max(counters.largestWindow, size)
        // A multiple of the stream's, or its streams would starve one another.
        let connectionSize = min(2 * size, windows.largestConnection, configuration.limits.queuedBytes)
        if connectionSize > connectionWindow {
            connectionWindow = connectionSize
            _ = nghttp2_session_set_local_window_size(
                nghttp2,
                UInt8(NGHTTP2_FLAG_NONE.rawValue),
                0,
                Int32(connectionSize)
            )
        }
        return stream.window.resize(to: size)
    }

    private func measureRoundTrip() {
        guard !roundTripIsBeingMeasured else { return }
        roundTripIsBeingMeasured = true
        ping { [weak self] _ in self?.roundTripIsBeingMeasured = false }
    }

    /// A PING or SETTINGS was acknowledged after so many nanoseconds.
    func sawRoundTrip(_ time: UInt64) {
        let time = max(time, 1)
        if smallestRoundTrip == 0 || time < smallestRoundTrip { smallestRoundTrip = time }
    }
}
