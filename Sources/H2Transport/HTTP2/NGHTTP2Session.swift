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

    /// Queues this side's SETTINGS and opens the connection window.
    func submitSettings(isServer: Bool, configuration: H2Configuration) -> Int32 {
        var entries = [
            entry(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, configuration.windows.stream),
            entry(NGHTTP2_SETTINGS_MAX_FRAME_SIZE, configuration.frameSize),
            entry(NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, configuration.limits.headerBytes),
            // RFC 9218 §2.1: no priority tree that a peer could make us maintain.
            entry(NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1),
        ]
        if isServer {
            entries.append(entry(NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, configuration.limits.concurrentStreams))
        } else {
            entries.append(entry(NGHTTP2_SETTINGS_ENABLE_PUSH, 0))
            entries.append(entry(NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 0))
        }
        let result = nghttp2_submit_settings(pointer, UInt8(NGHTTP2_FLAG_NONE.rawValue), entries, entries.count)
        guard result == 0 else { return result }
        return nghttp2_session_set_local_window_size(
            pointer,
            UInt8(NGHTTP2_FLAG_NONE.rawValue),
            0,
            Int32(clamping: configuration.windows.connection)
        )
    }

    private func entry(_ id: nghttp2_settings_id, _ value: Int) -> nghttp2_settings_entry {
        nghttp2_settings_entry(settings_id: Int32(bitPattern: id.rawValue), value: UInt32(clamping: value))
    }
}

/// What the nghttp2 at hand can do beyond 1.52, for `bootstrap doctor`.
public enum HTTP2Library {
    /// For example `1.52.0`. Debian's 1.52.0 has later security fixes; see the two properties below.
    public static var version: String { String(cString: nghttp2_version(0).pointee.version_str) }

    /// Has a guard against rapid reset (CVE-2023-44487) of its own.
    public static var limitsStreamResets: Bool { probe { cnghttp2_set_stream_reset_rate_limit($0, 1000, 33) != 0 } }

    /// Has a guard against CONTINUATION floods (CVE-2024-28182).
    public static var limitsContinuations: Bool { probe { cnghttp2_set_max_continuations($0, 8) != 0 } }

    private static func probe(_ body: (OpaquePointer?) -> Bool) -> Bool {
        var options: OpaquePointer?
        guard nghttp2_option_new(&options) == 0 else { return false }
        defer { nghttp2_option_del(options) }
        return body(options)
    }
}
