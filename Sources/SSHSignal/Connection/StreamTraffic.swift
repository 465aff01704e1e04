package import Streams

/// What a stream has turned out to carry.
package enum StreamTraffic: Hashable, Sendable {
    /// Much, in large pieces, as fast as it goes: CPU time per byte counts.
    case bulk
    /// Small pieces: each waits for the one before, and latency counts.
    case messages
}

/// A connection that tells what its streams carry.
package protocol TrafficReporting: AnyObject {
    /// Called once for a stream when it is known what it carries, and again when messages have become bulk. On the
    /// loop, from inside a read or write of the stream, which must be left alone.
    var onTraffic: ((ByteStream, StreamTraffic) -> Void)? { get set }
}

/// Finds out what a stream carries, from the sizes of the pieces that are read and written: a few integers for each.
struct TrafficMeter {
    private(set) var verdict: StreamTraffic?
    /// Since the last small pieces.
    private var bytes = 0
    private var pieces = 0
    /// What ``bytes`` was before these pieces.
    private var before = 0

    /// That much is bulk: 10 ms of what a core enciphers.
    static let bulk = 8 << 20
    /// So many pieces in a row tell messages.
    static let messages = 64
    /// Pieces of bulk are larger, on the average.
    static let messageSize = 2048

    /// Returns what the stream carries, when that is new. Bulk is never taken back: the end of a transfer may well be
    /// small pieces.
    @inline(__always) mutating func count(_ length: Int) -> StreamTraffic? {
        guard verdict != .bulk else { return nil }
        bytes += length
        pieces += 1
        guard bytes >= Self.bulk || pieces == Self.messages else { return nil }
        return judge()
    }

    private mutating func judge() -> StreamTraffic? {
        if bytes >= Self.bulk {
            verdict = .bulk
            return .bulk
        }
        let areSmall = bytes - before < pieces * Self.messageSize
        if areSmall { bytes = 0 }
        (pieces, before) = (0, bytes)
        guard areSmall, verdict == nil else { return nil }
        verdict = .messages
        return .messages
    }
}
