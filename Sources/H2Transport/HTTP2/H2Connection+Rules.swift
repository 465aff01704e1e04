import CNGHTTP2
import Streams

// What RFC 9113 asks for and nghttp2 lets pass. What nghttp2 decides alone is in docs/protocol.md, 2.8.
extension H2Connection {
    // MARK: Called by nghttp2

    /// A frame that is not DATA begins; nothing but its header is known.
    func beginFrame(_ header: nghttp2_frame_hd) {
        switch nghttp2_frame_type(UInt32(header.type)) {
        case NGHTTP2_HEADERS:
            // §5.1.1
            if isServer && header.stream_id % 2 == 1 && !rules.clientStreams.begin(header.stream_id) {
                breaks(.protocolError)
            }
        case NGHTTP2_PRIORITY:
            // §6.3. nghttp2 skips these frames, because this side has said that it has no priorities.
            if header.stream_id == 0 { breaks(.protocolError) }
        case NGHTTP2_SETTINGS:
            if header.flags & UInt8(NGHTTP2_FLAG_ACK.rawValue) == 0 {
                rules.largestWindow = streams.keys.lazy.compactMap { [self] in session?.peerWindow(of: $0) }.max()
            }
        default: break
        }
    }

    /// §6.9.2: nghttp2 resets the streams whose windows overflow, and goes on.
    func checkWindows() {
        let (before, after) = (rules.initialWindow, session?.peerInitialWindow ?? rules.initialWindow)
        rules.initialWindow = after
        guard let largest = rules.largestWindow else { return }
        rules.largestWindow = nil
        if Int(largest) + after - before > Int(Int32.max) { breaks(.flowControlError) }
    }

    /// DATA was received. What was granted is what has been sent as WINDOW_UPDATE: nghttp2 counts those that still wait
    /// behind what the peer does not read.
    func receivedFlowControlled(_ count: Int) {
        if !window.uses(count) { breaks(.flowControlError) }
    }

    /// The peer has broken a rule of the connection. It is told once nghttp2 has returned.
    private func breaks(_ code: HTTP2ErrorCode) {
        if rules.broken == nil { rules.broken = code }
    }

    /// The peer has broken a rule of the stream. A request that has not been acted on never will be.
    func breaksRule(_ stream: H2Stream) {
        if isServer { stream.head = nil }
        events.record(.brokeRule(stream))
    }

    // MARK: Outside of nghttp2

    /// GOAWAY is queued and nothing more is read.
    func leaveBrokenConnection() {
        guard let code = rules.broken, !isClosed, session != nil else { return }
        rules.broken = nil
        counters.invalidFramesReceived += 1
        input.end()
        session?.terminate(code)
        markDirty()
    }

    /// A malformed message, or a frame that has no place on the stream (§8.1.1, §8.5). Never a clean end.
    func brokeRule(_ stream: H2Stream) {
        guard stream.connection != nil, !stream.wasReset, stream.phase != .released else { return }
        chargeProvokedWork()
        submitReset(stream, .protocolError)
        stream.wasReset = true
        stream.pending?.cancel()
        let error = StreamError(.protocolViolation, "\(peerDescription) broke the rules of HTTP/2 on the stream")
        if stream.phase == .requested && !isServer { return failRequest(stream, ConnectFailure(error)) }
        stream.lost(error)
    }
}
