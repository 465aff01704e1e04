import CNGHTTP2

/// Owns an `nghttp2_session`. Its callbacks get the ``H2Connection`` that owns this value as user data.
struct NGHTTP2Session: ~Copyable {
    let pointer: OpaquePointer

    /// - Parameter connection: Not retained; must outlive the session and every call into it.
    init(isServer: Bool, configuration: H2Configuration, connection: UnsafeMutableRawPointer) {
        var options: OpaquePointer?
        precondition(nghttp2_option_new(&options) == 0, "out of memory")
        defer { nghttp2_option_del(options) }
        // Credit is given when bytes have left, not when they arrive.
        nghttp2_option_set_no_auto_window_update(options, 1)
        // Closed streams are kept for priorities, which nobody uses.
        nghttp2_option_set_no_closed_streams(options, 1)
        nghttp2_option_set_peer_max_concurrent_streams(options, UInt32(clamping: configuration.assumedPeerStreams))
        nghttp2_option_set_max_outbound_ack(options, 1000)
        // The library's own guards, where it has them; ours come first with a counter, these are the second fence.
        let resets = configuration.limits.earlyResets
        _ = cnghttp2_set_stream_reset_rate_limit(
            options,
            UInt64(clamping: resets.burst) * 4,
            UInt64(clamping: resets.perSecond) * 4
        )
        _ = cnghttp2_set_max_continuations(options, 8)

        var session: OpaquePointer?
        let result =
            isServer
            ? nghttp2_session_server_new2(&session, NGHTTP2Callbacks.shared.pointer, connection, options)
            : nghttp2_session_client_new2(&session, NGHTTP2Callbacks.shared.pointer, connection, options)
        guard result == 0, let session else { preconditionFailure("out of memory") }
        pointer = session
    }

    deinit { nghttp2_session_del(pointer) }

    private static var noFlags: UInt8 { UInt8(NGHTTP2_FLAG_NONE.rawValue) }

    private static func describe(_ result: Int32) -> String { String(cString: nghttp2_strerror(result)) }

    /// Queues this side's SETTINGS and opens the connection window.
    func submitSettings(isServer: Bool, configuration: H2Configuration) {
        var entries = [
            entry(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, configuration.windows.stream),
            entry(NGHTTP2_SETTINGS_MAX_FRAME_SIZE, configuration.frameSize),
            entry(NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, configuration.limits.headerBytes),
            // RFC 9218 §2.1: no priority tree that a peer could make us maintain.
            entry(NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1),
        ]
        if configuration.acknowledges > 0 {
            entries.append(
                nghttp2_settings_entry(
                    settings_id: Self.acknowledges,
                    value: UInt32(clamping: configuration.acknowledges)
                )
            )
        }
        if isServer {
            if configuration.makesTraces {
                entries.append(nghttp2_settings_entry(settings_id: Self.makesTraces, value: 1))
            }
            if configuration.process > 0 {
                entries.append(nghttp2_settings_entry(settings_id: Self.process, value: configuration.process))
            }
            entries.append(entry(NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, configuration.limits.concurrentStreams))
        } else {
            entries.append(entry(NGHTTP2_SETTINGS_ENABLE_PUSH, 0))
            entries.append(entry(NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 0))
        }
        let result = nghttp2_submit_settings(pointer, Self.noFlags, entries, entries.count)
        precondition(result == 0, "nghttp2 refuses SETTINGS: \(Self.describe(result))")
        setConnectionWindow(configuration.windows.connection)
    }

    /// Settings of ours, of the range that is for experiments (RFC 9113 §11.3): others ignore them.
    private static let makesTraces: Int32 = 0xf7ac
    private static let acknowledges: Int32 = 0xf7ad
    private static let process: Int32 = 0xf7ae

    /// Whether a peer's SETTINGS say that it makes the trace of a stream by itself; nil: they do not say.
    static func makesTraces(_ settings: nghttp2_settings) -> Bool? {
        UnsafeBufferPointer(start: settings.iv, count: settings.niv).last { $0.settings_id == makesTraces }.map {
            $0.value == 1
        }
    }

    /// What a peer's SETTINGS say of ``H2Configuration/acknowledges``; nil: nothing.
    static func acknowledges(_ settings: nghttp2_settings) -> Int? {
        UnsafeBufferPointer(start: settings.iv, count: settings.niv).last { $0.settings_id == acknowledges }.map {
            Int($0.value)
        }
    }

    /// What a peer's SETTINGS say of ``H2Configuration/process``; nil: nothing.
    static func process(_ settings: nghttp2_settings) -> UInt32? {
        UnsafeBufferPointer(start: settings.iv, count: settings.niv).last { $0.settings_id == process }.map(\.value)
    }

    private func entry(_ id: nghttp2_settings_id, _ value: Int) -> nghttp2_settings_entry {
        nghttp2_settings_entry(settings_id: Int32(bitPattern: id.rawValue), value: UInt32(clamping: value))
    }
}

// What a connection asks of nghttp2. Nothing is sent by it: frames are queued, and come out of ``nextControl(_:)``.
extension NGHTTP2Session {
    /// Whether nghttp2 wants to be fed: not when it has terminated the session.
    var wantsRead: Bool { nghttp2_session_want_read(pointer) != 0 }
    var wantsWrite: Bool { nghttp2_session_want_write(pointer) != 0 }
    /// Frames that wait to be sent.
    var queuedFrames: Int { nghttp2_session_get_outbound_queue_size(pointer) }
    /// What the peer lets this side send on all streams together, in bytes.
    var peerWindow: Int32 { nghttp2_session_get_remote_window_size(pointer) }
    /// The peer's SETTINGS_INITIAL_WINDOW_SIZE.
    var peerInitialWindow: Int {
        Int(nghttp2_session_get_remote_settings(pointer, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE))
    }
    /// What the peer lets this side send on a stream; 0 also where that is less, −1 where there is no such stream.
    func peerWindow(of stream: Int32) -> Int32 { nghttp2_session_get_stream_remote_window_size(pointer, stream) }
    /// Whether a request can be sent at all; false after GOAWAY.
    var allowsRequests: Bool { nghttp2_session_check_request_allowed(pointer) != 0 }
    /// Streams that the peer allows at once.
    var peerStreamLimit: Int {
        Int(nghttp2_session_get_remote_settings(pointer, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS))
    }
    var nextStreamID: Int32 { Int32(bitPattern: nghttp2_session_get_next_stream_id(pointer)) }

    /// Feeds bytes of the peer; returns what is wrong with them.
    func receive(_ bytes: UnsafeRawBufferPointer) -> String? {
        let result = nghttp2_session_mem_recv(
            pointer,
            bytes.baseAddress?.assumingMemoryBound(to: UInt8.self),
            bytes.count
        )
        return result < 0 ? Self.describe(Int32(result)) : nil
    }

    /// Takes out the next frame that is not DATA, valid until the next call of this; DATA goes through the callbacks.
    /// Empty where there is none, or where a callback has stopped it. Returns what went wrong.
    func nextControl(_ bytes: inout UnsafeRawBufferPointer) -> String? {
        var start: UnsafePointer<UInt8>?
        let count = nghttp2_session_mem_send(pointer, &start)
        guard count >= 0 else { return Self.describe(Int32(count)) }
        bytes = UnsafeRawBufferPointer(start: start, count: count)
        return nil
    }

    // MARK: Streams

    /// Asks for `stream`; its identifier is the next one. Returns what is wrong.
    func submitRequest(_ block: HeaderBlock, for stream: H2Stream, ends: Bool = false) -> String? {
        let owner = Unmanaged.passUnretained(stream).toOpaque()
        let result = block.withFields { fields, count in
            withUnsafePointer(to: stream.dataProvider) {
                nghttp2_submit_request(pointer, nil, fields, count, ends ? nil : $0, owner)
            }
        }
        return result == stream.id ? nil : Self.describe(result)
    }

    /// nghttp2 hands `stream` to the callbacks from now on.
    func setUserData(_ stream: H2Stream) {
        nghttp2_session_set_stream_user_data(pointer, stream.id, Unmanaged.passUnretained(stream).toOpaque())
    }

    /// Answers with a head, which the stream's bytes follow. Returns false when nghttp2 does not take it.
    func submitResponse(_ block: HeaderBlock, openingBodyOf stream: H2Stream) -> Bool {
        block.withFields { fields, count in
            withUnsafePointer(to: stream.dataProvider) {
                nghttp2_submit_response(pointer, stream.id, fields, count, $0)
            }
        } == 0
    }

    /// Answers with a head, and nothing else. Returns false when nghttp2 does not take it.
    func submitResponse(_ block: HeaderBlock, ending stream: Int32) -> Bool {
        block.withFields { fields, count in nghttp2_submit_response(pointer, stream, fields, count, nil) } == 0
    }

    /// A head that another one follows.
    func submitInterim(_ block: HeaderBlock, on stream: Int32) {
        _ = block.withFields { fields, count in
            nghttp2_submit_headers(pointer, Self.noFlags, stream, nil, fields, count, nil)
        }
    }

    /// What comes after the body. To be called while its last bytes are asked for. Returns false when nghttp2 does not
    /// take it.
    func submitTrailers(_ block: HeaderBlock, on stream: Int32) -> Bool {
        guard block.invalidField() == nil else { return false }
        return block.withFields { fields, count in nghttp2_submit_trailer(pointer, stream, fields, count) } == 0
    }

    /// Returns whether RST_STREAM was queued.
    func reset(_ stream: Int32, _ code: HTTP2ErrorCode) -> Bool {
        nghttp2_submit_rst_stream(pointer, Self.noFlags, stream, code.rawValue) == 0
    }

    /// A stream that had nothing to send has something.
    func resume(_ stream: Int32) { _ = nghttp2_session_resume_data(pointer, stream) }

    // MARK: Windows

    /// The peer may send so many bytes more on the connection; it is told when that is worth a frame.
    func creditConnection(_ count: Int) { _ = nghttp2_session_consume_connection(pointer, count) }

    /// The peer may send so many bytes more on the stream. Not `consume_stream`, which waits for half of the window.
    func creditStream(_ stream: Int32, _ count: Int) {
        _ = nghttp2_submit_window_update(pointer, Self.noFlags, stream, Int32(clamping: count))
    }

    func setConnectionWindow(_ size: Int) {
        let result = nghttp2_session_set_local_window_size(pointer, Self.noFlags, 0, Int32(clamping: size))
        assert(result == 0, "a window of \(size) bytes: \(Self.describe(result))")
    }

    // MARK: The connection

    func ping(_ id: UInt64) {
        withUnsafeBytes(of: id) { bytes in
            _ = nghttp2_submit_ping(pointer, Self.noFlags, bytes.baseAddress?.assumingMemoryBound(to: UInt8.self))
        }
    }

    /// A GOAWAY that refuses nothing yet (RFC 9113 §6.8).
    func announceGoAway() { _ = nghttp2_submit_shutdown_notice(pointer) }

    /// GOAWAY: no stream after those that nghttp2 has seen.
    func goAway() {
        let last = nghttp2_session_get_last_proc_stream_id(pointer)
        _ = nghttp2_submit_goaway(pointer, Self.noFlags, last, HTTP2ErrorCode.noError.rawValue, nil, 0)
    }

    /// GOAWAY with an error; nothing more is read.
    func terminate(_ code: HTTP2ErrorCode) { _ = nghttp2_session_terminate_session(pointer, code.rawValue) }
}

/// What the nghttp2 at hand can do beyond 1.52, for `bootstrap doctor`.
package enum HTTP2Library {
    /// For example `1.52.0`. Debian's 1.52.0 has later security fixes; see the two properties below.
    package static var version: String { String(cString: nghttp2_version(0).pointee.version_str) }

    /// Has a guard against rapid reset (CVE-2023-44487) of its own.
    package static var limitsStreamResets: Bool { probe { cnghttp2_set_stream_reset_rate_limit($0, 1000, 33) != 0 } }

    /// Has a guard against CONTINUATION floods (CVE-2024-28182).
    package static var limitsContinuations: Bool { probe { cnghttp2_set_max_continuations($0, 8) != 0 } }

    private static func probe(_ body: (OpaquePointer?) -> Bool) -> Bool {
        var options: OpaquePointer?
        guard nghttp2_option_new(&options) == 0 else { return false }
        defer { nghttp2_option_del(options) }
        return body(options)
    }
}
