import CNGHTTP2

/// The C functions that nghttp2 calls: one table for every session. They capture nothing; the user data is the
/// ``H2Connection``, which is on the stack of the call into nghttp2 and therefore alive. They record what happened, for
/// the connection to act on once nghttp2 has returned: no callback frees or re-enters a session.
final class NGHTTP2Callbacks: @unchecked Sendable {
    // @unchecked Sendable, the proof: `pointer` is written once, in `init`; nghttp2 copies the table into each session
    // and never writes to it.
    static let shared = NGHTTP2Callbacks()

    let pointer: OpaquePointer

    private init() {
        var callbacks: OpaquePointer?
        precondition(nghttp2_session_callbacks_new(&callbacks) == 0, "out of memory")
        guard let callbacks else { preconditionFailure("out of memory") }
        pointer = callbacks
        nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, onBeginFrame)
        nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, onBeginHeaders)
        nghttp2_session_callbacks_set_on_header_callback(callbacks, onHeader)
        nghttp2_session_callbacks_set_on_invalid_header_callback(callbacks, onInvalidHeader)
        nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, onFrameReceived)
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, onDataChunk)
        nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, onStreamClose)
        nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, onFrameSent)
        nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks, onInvalidFrame)
        nghttp2_session_callbacks_set_send_data_callback(callbacks, sendData)
        nghttp2_session_callbacks_set_data_source_read_length_callback(callbacks, readLength)
    }

    deinit { nghttp2_session_callbacks_del(pointer) }
}

/// Calls `body` with the connection, without retaining it: it is on the stack of the call into nghttp2.
@inline(__always)
private func withOwner<Result>(_ userData: UnsafeMutableRawPointer?, _ body: (H2Connection) -> Result) -> Result {
    guard let userData else { preconditionFailure("nghttp2 lost its user data") }
    return Unmanaged<H2Connection>.fromOpaque(userData)._withUnsafeGuaranteedRef(body)
}

private func stream(_ session: OpaquePointer?, _ id: Int32) -> H2Stream? {
    guard let pointer = nghttp2_session_get_stream_user_data(session, id) else { return nil }
    return Unmanaged<H2Stream>.fromOpaque(pointer).takeUnretainedValue()
}

private let onBeginFrame: nghttp2_on_begin_frame_callback = { _, header, userData in
    // DATA and WINDOW_UPDATE are most of what comes, and have no rule here.
    guard let header, header.pointee.type != 0, header.pointee.type != 8 else { return 0 }
    withOwner(userData) { $0.beginFrame(header.pointee) }
    return 0
}

private let onBeginHeaders: nghttp2_on_begin_headers_callback = { session, frame, userData in
    guard let frame else { return 0 }
    let id = cnghttp2_header(frame).pointee.stream_id
    withOwner(userData) { $0.beginHeaders(category: frame.pointee.headers.cat, stream: stream(session, id)) }
    return 0
}

private let onHeader: nghttp2_on_header_callback = { _, _, name, nameLength, value, valueLength, _, userData in
    withOwner(userData) {
        $0.receivedHeader(
            name: UnsafeBufferPointer(start: name, count: nameLength),
            value: UnsafeBufferPointer(start: value, count: valueLength)
        )
    }
    return 0
}

private let onInvalidHeader: nghttp2_on_invalid_header_callback = { _, _, _, _, _, _, _, userData in
    withOwner(userData) { $0.receivedInvalidHeader() }
    return 0
}

private let onFrameReceived: nghttp2_on_frame_recv_callback = { session, frame, userData in
    guard let frame else { return 0 }
    let id = cnghttp2_header(frame).pointee.stream_id
    withOwner(userData) { $0.receivedFrame(frame, stream: id == 0 ? nil : stream(session, id)) }
    return 0
}

private let onDataChunk: nghttp2_on_data_chunk_recv_callback = { session, _, id, data, length, userData in
    guard let data else { return 0 }
    withOwner(userData) { $0.receivedData(UnsafeMutableRawPointer(mutating: data), length, id: id) }
    return 0
}

private let onStreamClose: nghttp2_on_stream_close_callback = { session, id, code, userData in
    withOwner(userData) { $0.streamClosed(id: id, code: HTTP2ErrorCode(rawValue: code)) }
    return 0
}

private let onFrameSent: nghttp2_on_frame_send_callback = { session, frame, userData in
    guard let frame else { return 0 }
    let header = cnghttp2_header(frame).pointee
    withOwner(userData) {
        $0.sentFrame(frame, header, stream: header.stream_id == 0 ? nil : stream(session, header.stream_id))
    }
    return 0
}

private let onInvalidFrame: nghttp2_on_invalid_frame_recv_callback = { _, _, _, userData in
    withOwner(userData) { $0.receivedInvalidFrame() }
    return 0
}

private let sendData: nghttp2_send_data_callback = { _, _, header, length, _, userData in
    guard let header else { return NGHTTP2_ERR_CALLBACK_FAILURE.rawValue }
    withOwner(userData) { $0.commitData(header: header, length: length) }
    return 0
}

private let readLength: nghttp2_data_source_read_length_callback = { _, _, _, _, _, peerFrameSize, userData in
    withOwner(userData) { $0.nextFrameLength(peerFrameSize: Int(peerFrameSize)) }
}

extension H2Stream {
    /// How nghttp2 gets at this stream's bytes. The stream is not retained: the connection keeps it while it is
    /// registered.
    var dataProvider: nghttp2_data_provider {
        var provider = nghttp2_data_provider()
        provider.source.ptr = Unmanaged.passUnretained(self).toOpaque()
        provider.read_callback = { _, _, _, length, flags, source, userData in
            guard let flags, let pointer = source?.pointee.ptr else {
                return Int(NGHTTP2_ERR_CALLBACK_FAILURE.rawValue)
            }
            return withOwner(userData) { owner in
                Unmanaged<H2Stream>.fromOpaque(pointer)._withUnsafeGuaranteedRef { stream in
                    owner.readData(of: stream, length: length, flags: flags)
                }
            }
        }
        return provider
    }
}
