import Platform
public import Streams

/// The server's answer to a ``ConnectRequest``.
public struct ConnectResponse: Hashable, Sendable {
    /// HTTP's status.
    public var status: Int
    /// What came with it, pseudo-header fields aside. The peer wrote it.
    public var headers: HeaderFields

    /// - Parameters:
    ///   - status: HTTP's status.
    ///   - headers: What goes with it.
    public init(status: Int, headers: HeaderFields = [:]) {
        self.status = status
        self.headers = headers
    }

    /// Why an intermediary failed (RFC 9209).
    public var proxyStatus: String? { headers["proxy-status"] }

    /// What the workload at the other end says about itself, or a server on the way to it. Never a reason to trust it.
    public var baggage: Baggage { Baggage(parsing: headers["baggage"]) }

    /// Any 2xx opens the tunnel (RFC 9110 §9.3.6).
    public var isSuccess: Bool { (200..<300).contains(status) }
}

/// Why a tunnel did not open.
public struct ConnectFailure: Error, Hashable, Sendable, CustomStringConvertible {
    /// What went wrong, in the terms of every other stream: `denied` for 401 and 403, `refused`, `unreachable` or
    /// `timedOut` for a backend that cannot be reached, `badRequest` for 400, `draining` for a connection that takes no
    /// more streams.
    public var error: StreamError
    /// What the server answered; nil when it did not.
    public var response: ConnectResponse?
    /// Another connection may carry the request: the server did nothing with it (GOAWAY, REFUSED_STREAM; RFC 9113
    /// §8.7), or was lost before it answered. None of the stream's bytes has been sent, so that none can be lost or
    /// doubled.
    public var isRetryable: Bool
    /// The server is there, and takes no further request for now (REFUSED_STREAM).
    package var isRefusal = false

    /// - Parameters:
    ///   - error: What went wrong.
    ///   - response: What the server answered; nil when it did not.
    ///   - isRetryable: Whether another connection may carry the request.
    public init(_ error: StreamError, response: ConnectResponse? = nil, isRetryable: Bool = false) {
        self.error = error
        self.response = response
        self.isRetryable = isRetryable
    }

    public var description: String { error.message }

    /// The failure that a response other than 2xx means.
    ///
    /// - Parameter body: The start of the body, where servers without `proxy-status` (Envoy) give their reason.
    init(response: ConnectResponse, body: String, authority: String, peer: String) {
        let reason = response.proxyStatus.map(ProxyStatus.init(parsing:))
        let code: StreamError.Code
        switch response.status {
        case 401, 403, 407: code = .denied
        case 400, 404, 405, 431: code = .badRequest
        case 429: code = .limit
        case 508: code = .loop
        case 502, 503, 504:
            switch reason?.error {
            case "connection_refused": code = .refused
            case "connection_timeout", "connection_read_timeout", "dns_timeout": code = .timedOut
            case "destination_ip_prohibited", "http_request_denied": code = .denied
            case "connection_limit_reached": code = .limit
            default: code = response.status == 504 ? .timedOut : .unreachable
            }
        default: code = .protocolViolation
        }
        var message = "\(peer) answered \(response.status) for \(Printable.escape(authority))"
        if let detail = reason?.details ?? reason?.error {
            message += ": \(Printable.escape(detail, limit: ProxyStatus.longestDetails))"
        }
        if reason == nil && !body.isEmpty { message += ": \(Printable.escape(body))" }
        self.init(StreamError(code, message), response: response)
    }
}

/// How a server refuses a tunnel: a status and the reason as `proxy-status` (RFC 9209).
public struct ConnectRejection: Hashable, Sendable {
    /// HTTP's status, no 2xx.
    public var status: Int
    /// Told to the peer; nil: nothing but the status.
    public var reason: ProxyStatus?
    /// `www-authenticate` of a 401 (RFC 9110 §11.6.1).
    package var challenge: String?

    /// - Parameters:
    ///   - status: HTTP's status, no 2xx.
    ///   - reason: Told to the peer.
    public init(status: Int, reason: ProxyStatus? = nil) {
        self.status = status
        self.reason = reason
    }

    /// Policy says no: 403. `details` is told to the peer; name no rule in it.
    public static func denied(_ details: String? = nil) -> ConnectRejection {
        ConnectRejection(status: 403, reason: ProxyStatus(error: "http_request_denied", details: details))
    }

    /// For a request with `x-tun`, where nobody speaks the TLS inside of such a tunnel: leading it there without would
    /// take away what the client relies on.
    package static var innerTunnel: ConnectRejection {
        let details = "x-tun is not served here: name the destination in :authority"
        return ConnectRejection(status: 400, reason: ProxyStatus(error: "http_request_error", details: details))
    }

    /// The answer for a request that cannot be served because of `error`: 400, 403, 503, 504 or 508.
    public init(_ error: StreamError) {
        let (status, type) =
            switch error.code {
            case .badRequest: (400, "http_request_error")
            case .denied, .authentication: (403, "http_request_denied")
            case .refused: (503, "connection_refused")
            case .timedOut: (504, "connection_timeout")
            case .limit: (503, "connection_limit_reached")
            case .loop: (508, "proxy_loop_detected")
            case .reset, .truncated, .closed: (503, "connection_terminated")
            default: (503, "destination_unavailable")
            }
        // What is on the way is told to nobody; and each node would add its own words.
        let details = error.code == .loop ? "the way to the destination is a loop" : error.message
        self.init(status: status, reason: ProxyStatus(error: type, details: details))
    }
}

/// The one member of a `Proxy-Status` field that matters here: an error type of RFC 9209 §2.3 and free text.
public struct ProxyStatus: Hashable, Sendable {
    /// Of ``details``, in characters.
    static let longestDetails = 256
    /// The error type, one of those in RFC 9209 §2.3, such as `connection_refused`; nil without one.
    public var error: String?
    /// For people. Sent in printable ASCII, at most 256 characters; everything else becomes `?`.
    public var details: String?

    /// - Parameters:
    ///   - error: An error type of RFC 9209 §2.3.
    ///   - details: For people.
    public init(error: String?, details: String? = nil) {
        self.error = error
        self.details = details
    }

    /// The field's value, as this server sends it.
    package var fieldValue: String {
        var value = "bootstrap"
        if let error { value += "; error=\(error)" }
        if let details {
            // A structured-field string is printable ASCII with two escapes (RFC 8941 §3.3.3).
            let text = details.unicodeScalars.prefix(Self.longestDetails).map { scalar -> String in
                switch scalar {
                case "\"", "\\": "\\\(scalar)"
                case " "..."~": String(scalar)
                default: "?"
                }
            }
            value += "; details=\"\(text.joined())\""
        }
        return value
    }

    /// Reads the parameters `error` and `details` of the first member; whatever else is there is skipped.
    init(parsing value: String) {
        var rest = value.utf8[...]
        while let separator = rest.firstIndex(of: UInt8(ascii: ";")) {
            rest = rest[rest.index(after: separator)...].drop { $0 == UInt8(ascii: " ") }
            guard let equals = rest.firstIndex(of: UInt8(ascii: "=")) else { return }
            let name = String(rest[..<equals])
            rest = rest[rest.index(after: equals)...]
            let parameter = Self.parseItem(&rest)
            switch name {
            case "error": error = error ?? parameter
            case "details": details = details ?? parameter
            default: break
            }
        }
    }

    /// A quoted string or a token; `rest` is left behind it.
    private static func parseItem(_ rest: inout Substring.UTF8View) -> String? {
        guard rest.first == UInt8(ascii: "\"") else {
            let token = rest.prefix { $0 != UInt8(ascii: ";") && $0 != UInt8(ascii: ",") && $0 != UInt8(ascii: " ") }
            rest = rest[token.endIndex...]
            return String(token)
        }
        rest = rest.dropFirst()
        var text: [UInt8] = []
        var isEscaped = false
        while let byte = rest.popFirst() {
            if isEscaped {
                text.append(byte)
                isEscaped = false
            } else if byte == UInt8(ascii: "\\") {
                isEscaped = true
            } else if byte == UInt8(ascii: "\"") {
                break
            } else {
                text.append(byte)
            }
        }
        return String(decoding: text, as: UTF8.self)
    }
}
