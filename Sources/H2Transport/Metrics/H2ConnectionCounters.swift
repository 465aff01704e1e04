/// What happened on one connection, for metrics and limits.
public struct H2ConnectionCounters: Hashable, Sendable {
    /// Bytes of the layer below, framing included.
    public var bytesReceived: UInt64 = 0
    public var bytesSent: UInt64 = 0
    /// Tunnels that opened.
    public var streamsOpened: UInt64 = 0
    /// Requests answered, or that failed, with anything but 2xx.
    public var requestsRefused: UInt64 = 0
    /// RST_STREAM frames.
    public var resetsReceived: UInt64 = 0
    public var resetsSent: UInt64 = 0
    /// Resets received before the answer or within a second of the request.
    public var earlyResetsReceived: UInt64 = 0
    /// Resets that the peer provoked by breaking the protocol on a stream.
    public var provokedResets: UInt64 = 0
    /// PING and SETTINGS frames, and DATA frames without a payload.
    public var controlFramesReceived: UInt64 = 0
    /// WINDOW_UPDATE frames beyond those that what was sent explains.
    public var excessWindowUpdates: UInt64 = 0
    /// 1 once the peer was cut off because of a rate in ``H2Configuration/Limits``.
    public var floods: UInt64 = 0
    /// Streams refused because the peer had as many open as it may.
    public var streamsRefused: UInt64 = 0
    /// Requests answered 503 because too many others waited for their answer.
    public var requestsOverLimit: UInt64 = 0
    /// Streams reset because of ``H2Configuration/Limits/stallTimeout``.
    public var stalledStreams: UInt64 = 0
    /// 1 once the connection ended because of ``H2Configuration/Limits/stallTimeout``.
    public var stalledConnections: UInt64 = 0
    /// Streams reset because what waited in them was over a limit of memory.
    public var memoryResets: UInt64 = 0
    /// Frames that broke the protocol and were answered or ignored.
    public var invalidFramesReceived: UInt64 = 0
    /// Header blocks over the limit.
    public var headersTooLarge: UInt64 = 0
    /// How often reading stopped because the peer did not take what it had asked for.
    public var inputPauses: UInt64 = 0
    /// How often the connection window was withheld because readers did not keep up.
    public var windowStalls: UInt64 = 0
    /// How often a stream's window was made larger to fit the path.
    public var windowsGrown: UInt64 = 0
    /// The largest window that a stream was given beyond its first one, in bytes; 0 without.
    public var largestWindow = 0
    /// How often the peer's window of the connection was used up.
    public var sendWindowStalls: UInt64 = 0
    /// Whether the connection reached its maximum age, or the end of a certificate: 0 or 1.
    public var retiredForAge: UInt64 = 0
    public var retiredExpired: UInt64 = 0

    public init() {}
}
