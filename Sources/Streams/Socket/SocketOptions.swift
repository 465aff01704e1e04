/// What a TCP socket is set to beyond the system's defaults and TCP_NODELAY, which is always set. Unix sockets ignore
/// it.
public struct SocketOptions: Hashable, Sendable {
    /// Bytes that the kernel may hold unsent (TCP_NOTSENT_LOWAT), so that a keystroke does not wait behind a full
    /// socket buffer of bulk; nil leaves it at the system's. Leave SO_SNDBUF alone: a small one halves the throughput.
    public var unsentLimit: Int?
    /// How long sent data may stay unacknowledged before the socket fails (TCP_USER_TIMEOUT, RFC 5482); counts in
    /// milliseconds. Also has an idle peer probed (SO_KEEPALIVE) after ``idleBeforeProbe``, which then has this long to
    /// answer, at least a second. nil leaves a dead peer to the system's patience, which is a quarter of an hour.
    public var unacknowledgedLimit: Duration?
    /// Counts in seconds; 1 to 32,767 of them.
    public var idleBeforeProbe: Duration = .seconds(180)

    /// Has an idle peer probed after ``idleBeforeProbe``, which then has a minute to answer, without a limit to what is
    /// unacknowledged: ``unacknowledgedLimit`` would also end the connection of a program that pauses and does not read
    /// (a window of zero counts as silence), and no stranger's program has to read all the time.
    package var probesWhenIdle = false

    /// The largest TCP segment, both ways, in bytes (TCP_MAXSEG, RFC 9293 §3.7.1); 88 to 32,767. Only for a socket that
    /// is still to be connected. nil: as large as the way seems to allow.
    package var segmentLimit: Int?

    /// The connection is one of Multipath TCP, where both kernels do that (``MultipathTCP``). Only for a socket that is
    /// still to be connected; nothing with ``segmentLimit``, which is for a way that has failed.
    package var multipath = false

    /// For a socket towards a program that takes an end for the whole: when this process dies, the kernel says reset,
    /// where it would say that all had been sent (SO_LINGER of zero seconds, socket(7)). Ended in order the socket
    /// closes as ever, with whatever is still to be sent.
    package var resetsUnlessEnded = false

    /// - Parameters:
    ///   - unsentLimit: In bytes; nil leaves it to the system.
    ///   - unacknowledgedLimit: In whole milliseconds; nil leaves it to the system.
    public init(unsentLimit: Int? = nil, unacknowledgedLimit: Duration? = nil) {
        self.unsentLimit = unsentLimit
        self.unacknowledgedLimit = unacknowledgedLimit
    }

    /// The system's.
    public static var defaults: SocketOptions { SocketOptions() }

    /// Passes wherever IPv6 does, which needs 1,280 bytes for a packet (RFC 8200 §5).
    package static let smallSegment = 1200

    /// For a connection that carries many streams, keystrokes beside bulk: at most 128 KiB unsent.
    ///
    /// - Parameter limit: For ``unacknowledgedLimit``.
    public static func multiplexed(unacknowledgedLimit limit: Duration? = nil) -> SocketOptions {
        SocketOptions(unsentLimit: 128 << 10, unacknowledgedLimit: limit)
    }
}
