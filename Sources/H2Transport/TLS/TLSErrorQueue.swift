internal import COpenSSL
internal import Streams

/// OpenSSL's error queue of this thread: cleared before every call that reports through it, drained after.
enum TLSErrorQueue {
    /// Empties the queue, before a call that reports through it.
    ///
    /// Clearing walks over sixteen places though there is nothing in them, for each record; looking at the first is a
    /// tenth of that.
    static func clear() {
        if ERR_peek_error() != 0 { ERR_clear_error() }
    }

    /// Empties the queue and says what the oldest error, the cause, means on a connection with `peer`.
    ///
    /// `refusal` is what our own verification had against the peer's certificate, if that was the cause. `isAlert`
    /// tells that the cause is an alert of the peer.
    static func drain(
        peer: String,
        refusal: StreamError?,
        versions: TLSContext.Versions = .only13
    ) -> (error: StreamError, isAlert: Bool) {
        let first = ERR_get_error()
        ERR_clear_error()
        guard first != 0 else {
            return (StreamError(.protocolViolation, "the TLS connection with \(peer) failed"), false)
        }
        let reason = ERR_GET_REASON(first)
        guard ERR_GET_LIB(first) == ERR_LIB_SSL else { return (other(first, peer: peer), false) }
        if reason >= SSL_AD_REASON_OFFSET, let code = UInt8(exactly: reason - SSL_AD_REASON_OFFSET) {
            return (TLSAlert(code: code).error(from: peer, versions: versions), true)
        }
        return (local(first, peer: peer, refusal: refusal, versions), false)
    }

    private static func local(
        _ first: UInt,
        peer: String,
        refusal: StreamError?,
        _ versions: TLSContext.Versions
    ) -> StreamError {
        switch ERR_GET_REASON(first) {
        case SSL_R_CERTIFICATE_VERIFY_FAILED:
            return refusal ?? StreamError(.authentication, "the certificate of \(peer) does not verify")
        case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
            return StreamError(
                .authentication,
                "\(peer) sent no certificate; it needs a mesh identity of its own (enrol it, then connect with its certificate)"
            )
        case SSL_R_UNSUPPORTED_PROTOCOL, SSL_R_WRONG_SSL_VERSION, SSL_R_UNKNOWN_SSL_VERSION, SSL_R_VERSION_TOO_LOW:
            return StreamError(.protocolViolation, "\(peer) does not speak \(versions.description)")
        case SSL_R_WRONG_VERSION_NUMBER, SSL_R_HTTP_REQUEST, SSL_R_HTTPS_PROXY_REQUEST, SSL_R_PACKET_LENGTH_TOO_LONG,
            SSL_R_RECORD_LENGTH_MISMATCH, SSL_R_BAD_RECORD_TYPE:
            return StreamError(
                .protocolViolation,
                "\(peer) does not speak TLS (\(text(first))); is that the right port?"
            )
        case SSL_R_NO_APPLICATION_PROTOCOL:
            return StreamError(
                .protocolViolation,
                "\(peer) offered only application protocols (ALPN) that are not served here; HBONE clients offer h2"
            )
        case SSL_R_NO_SHARED_CIPHER, SSL_R_NO_SUITABLE_KEY_SHARE, SSL_R_NO_SHARED_GROUPS:
            return StreamError(.protocolViolation, "\(peer) has no cipher or group in common with us (\(text(first)))")
        case SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC:
            return StreamError(.protocolViolation, "bytes from \(peer) were altered on the way (\(text(first)))")
        default:
            return other(first, peer: peer)
        }
    }

    /// For set-up calls: what the oldest error says, in OpenSSL's words.
    static func drainText() -> String {
        let first = ERR_get_error()
        ERR_clear_error()
        return first == 0 ? "no reason given" : text(first)
    }

    private static func other(_ error: UInt, peer: String) -> StreamError {
        StreamError(.protocolViolation, "the TLS connection with \(peer) failed: \(text(error))")
    }

    private static func text(_ error: UInt) -> String {
        guard let reason = ERR_reason_error_string(error) else { return "OpenSSL error \(error)" }
        return String(cString: reason)
    }
}
