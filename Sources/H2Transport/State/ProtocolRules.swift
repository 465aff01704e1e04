/// The identifiers that a client's streams have had. They only grow; one that was left out is closed for ever (RFC 9113
/// §5.1.1), and a request for it is a mistake of the client's, unlike one for a stream that has ended meanwhile.
struct ClientStreams: Hashable {
    /// Gaps that are kept. A client that leaves out more is not watched any further.
    private static var limit: Int { 64 }

    private var last: Int32 = -1
    private var gaps: ContiguousArray<ClosedRange<Int32>> = []

    /// HEADERS for a stream begin. Returns false where it is one that was left out.
    mutating func begin(_ id: Int32) -> Bool {
        guard id > last else { return !gaps.contains { $0.contains(id) } }
        // Not `last + 2`: the largest identifier has no successor.
        if id - 2 > last, gaps.count < Self.limit { gaps.append(last + 2...id - 1) }
        last = id
        return true
    }
}

/// What is remembered of a connection for the rules that nghttp2 does not keep.
struct ProtocolRules: Hashable {
    /// A rule of the connection was broken; it ends with this.
    var broken: HTTP2ErrorCode?
    var clientStreams = ClientStreams()
    /// The peer's SETTINGS_INITIAL_WINDOW_SIZE.
    var initialWindow = 65535
    /// The largest of the windows that the peer grants the streams, from before its SETTINGS that are being received;
    /// nil without streams.
    var largestWindow: Int32?
}
