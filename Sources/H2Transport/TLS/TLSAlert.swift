internal import Streams

/// An alert that the peer sent (RFC 8446 §6), and what a person can do about it.
struct TLSAlert: Hashable {
    /// The AlertDescription on the wire.
    let code: UInt8

    /// The name in RFC 8446 §6, or the number where it has none.
    var name: String {
        switch code {
        case 0: "close_notify"
        case 10: "unexpected_message"
        case 20: "bad_record_mac"
        case 22: "record_overflow"
        case 40: "handshake_failure"
        case 42: "bad_certificate"
        case 43: "unsupported_certificate"
        case 44: "certificate_revoked"
        case 45: "certificate_expired"
        case 46: "certificate_unknown"
        case 47: "illegal_parameter"
        case 48: "unknown_ca"
        case 49: "access_denied"
        case 50: "decode_error"
        case 51: "decrypt_error"
        case 70: "protocol_version"
        case 71: "insufficient_security"
        case 80: "internal_error"
        case 86: "inappropriate_fallback"
        case 90: "user_canceled"
        case 109: "missing_extension"
        case 110: "unsupported_extension"
        case 112: "unrecognized_name"
        case 115: "unknown_psk_identity"
        case 116: "certificate_required"
        case 120: "no_application_protocol"
        default: "alert \(code)"
        }
    }

    /// What the alert means to the one who receives it.
    func error(from peer: String, versions: TLSContext.Versions = .only13) -> StreamError {
        let refusal = "\(peer) refused our certificate: \(name)"
        switch code {
        case 42, 43:
            return StreamError(
                .authentication,
                "\(refusal) (it is damaged or breaks a rule of X.509-SVID); issue it anew, with exactly one SPIFFE ID"
            )
        case 44:
            return StreamError(
                .authentication,
                "\(refusal) (it was revoked); an operator gives this machine another: `bootstrap renew`, or, where the machine itself "
                    + "was revoked and is trusted again, `bootstrap enroll --reinstate`"
            )
        case 45:
            return StreamError(
                .authentication,
                "\(refusal) (expired, or not yet valid by its clock); renew our certificate and compare both clocks"
            )
        case 46, 49:
            return StreamError(
                .authentication,
                "\(refusal) (it does not want this identity: trust domain, namespace or name); "
                    + "compare our SPIFFE ID with the identities and trust domains it accepts"
            )
        case 48:
            return StreamError(
                .authentication,
                "\(refusal) (no root it trusts has issued it); compare its root-cert.pem with our cert-chain.pem: "
                    + "a new root must reach every machine before certificates of it are used"
            )
        case 51:
            return StreamError(
                .authentication,
                "\(refusal) (a signature of ours does not verify); check that key.pem and cert-chain.pem belong together"
            )
        case 116:
            // Peers of a mesh are always shown one; other servers only where the endpoint has one.
            let remedy =
                versions == .only13 ? "check our credential directory" : "add tls: {credential: DIR} to its endpoint"
            return StreamError(
                .authentication,
                "\(peer) wants a client certificate and got none: \(name); \(remedy)"
            )
        case 40, 71:
            return StreamError(
                .protocolViolation,
                "\(peer) ended the TLS handshake: \(name) (no cipher, group or signature in common)"
            )
        case 70:
            return StreamError(
                .protocolViolation,
                "\(peer) does not speak \(versions == .only13 ? "TLS 1.3" : versions.description): \(name)"
            )
        case 112:
            return StreamError(.protocolViolation, "\(peer) does not serve the server name we sent: \(name)")
        case 120:
            return StreamError(
                .protocolViolation,
                "\(peer) speaks none of the application protocols we offered (ALPN): \(name); is that the HBONE port?"
            )
        case 90:
            return StreamError(.reset, "\(peer) cancelled the TLS handshake: \(name)")
        default:
            return StreamError(.protocolViolation, "\(peer) ended the TLS connection: \(name)")
        }
    }
}
