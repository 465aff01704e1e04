/// What happened on one connection, for metrics and limits.
package struct H2ConnectionCounters: Hashable, Sendable {
    /// Bytes of the layer below, framing included.
    package var bytesReceived: UInt64 = 0
    package var bytesSent: UInt64 = 0
    /// Tunnels that opened.
    package var streamsOpened: UInt64 = 0
    /// Requests answered, or that failed, with anything but 2xx.
    package var requestsRefused: UInt64 = 0
    /// RST_STREAM frames.
    package var resetsReceived: UInt64 = 0
    package var resetsSent: UInt64 = 0
    /// Resets received before the answer or within a second of the request.
    package var earlyResetsReceived: UInt64 = 0
    /// Resets that the peer provoked by breaking the protocol on a stream.
    package var provokedResets: UInt64 = 0
    /// PING and SETTINGS frames, and DATA frames without a payload.
    package var controlFramesReceived: UInt64 = 0
    /// WINDOW_UPDATE frames beyond those that what was sent explains.
    package var excessWindowUpdates: UInt64 = 0
    /// 1 once the peer was cut off because of a rate in ``H2Configuration/Limits``.
    package var floods: UInt64 = 0
    /// Streams refused because the peer had as many open as it may.
    package var streamsRefused: UInt64 = 0
    /// Requests answered 503 because too many others waited for their answer.
    package var requestsOverLimit: UInt64 = 0
    /// Streams reset because of ``H2Configuration/Limits/stallTimeout``.
    package var stalledStreams: UInt64 = 0
    /// 1 once the connection ended because of ``H2Configuration/Limits/stallTimeout``.
    package var stalledConnections: UInt64 = 0
    /// Streams reset because what waited in them was over a limit of memory.
    package var memoryResets: UInt64 = 0
    /// Frames that broke the protocol and were answered or ignored.
    package var invalidFramesReceived: UInt64 = 0
    /// Header blocks over the limit.
    package var headersTooLarge: UInt64 = 0
    /// How often reading stopped because the peer did not take what it had asked for.
    package var inputPauses: UInt64 = 0
    /// How often the connection window was withheld because readers did not keep up.
    package var windowStalls: UInt64 = 0
    /// How often a stream's window was made larger to fit the path.
    package var windowsGrown: UInt64 = 0
    /// The largest window that a stream was given beyond its first one, in bytes; 0 without.
    package var largestWindow = 0
    /// How often the peer's window of the connection was used up.
    package var sendWindowStalls: UInt64 = 0
    /// Whether the connection reached its maximum age, or the end of a certificate: 0 or 1.
    package var retiredForAge: UInt64 = 0
    package var retiredExpired: UInt64 = 0

    package init() {}
}
