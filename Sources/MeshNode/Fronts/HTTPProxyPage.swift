import H2Transport
import HTTP1
import MeshIdentity
import Platform
import Streams

/// What a proxy answers itself: a few words for people, and `proxy-status` (RFC 9209) for programs.
struct HTTPProxyPage: Hashable, Sendable {
    var status: Int
    var text: String
    var type = "text/plain; charset=utf-8"
    var fields = HTTPFields()

    /// A request that cannot be served as it is.
    static func bad(_ error: HTTPError) -> HTTPProxyPage {
        let type = error.status == 508 ? "proxy_loop_detected" : "http_request_error"
        return page(error.status, error.message, ProxyStatus(error: type, details: error.message))
    }

    /// A server that cannot be reached, or may not be.
    ///
    /// - Parameter isLocal: The client is a program of this machine. Others are told what kind of failure it is, as
    ///   peers are: the rest names rules, addresses and files of this node.
    static func failed(_ error: StreamError, isLocal: Bool) -> HTTPProxyPage {
        let status: Int
        var reason: ProxyStatus
        switch error.code {
        // A server that was reached and says nothing that can be understood is no proxy's refusal.
        case .protocolViolation:
            (status, reason) = (502, ProxyStatus(error: "http_protocol_error", details: error.message))
        case .truncated, .reset, .closed:
            (status, reason) = (502, ProxyStatus(error: "http_response_incomplete", details: error.message))
        default:
            let rejection = ConnectRejection(error)
            (status, reason) = (rejection.status, rejection.reason ?? ProxyStatus(error: nil))
        }
        if isLocal { return page(status, error.message, reason) }
        reason.details = error.code == .denied ? "policy" : nil
        let kind = (reason.error ?? "").map { (letter: Character) -> Character in letter == "_" ? " " : letter }
        return page(status, reason.details ?? String(kind), reason)
    }

    /// What an `OPTIONS` gets that goes no further (RFC 9110 §7.6.2).
    static var options: HTTPProxyPage {
        HTTPProxyPage(status: 200, text: "This is an HTTP proxy of bootstrap.\n")
    }

    static func passwordNeeded(isOwn: Bool) -> HTTPProxyPage {
        var page = HTTPProxyPage(status: isOwn ? 401 : 407, text: "This proxy asks for a name and a password.\n")
        page.fields.append(isOwn ? "WWW-Authenticate" : "Proxy-Authenticate", "Basic realm=\"bootstrap\"")
        return page
    }

    /// Nothing more than RFC 6750 has of why: the log has the reason.
    ///
    /// - Parameter isProxy: Who asks is a proxy, and not what the client takes for the server.
    static func tokenNeeded(_ error: TokenError, isProxy: Bool) -> HTTPProxyPage {
        var page = page(
            isProxy ? 407 : 401,
            error.code == .missing ? "A token is needed here." : "This token does not hold here.",
            ProxyStatus(error: "http_request_denied")
        )
        page.fields.append(isProxy ? "Proxy-Authenticate" : "WWW-Authenticate", error.challenge)
        return page
    }

    /// Nobody has looked at the password.
    static var busy: HTTPProxyPage {
        var page = HTTPProxyPage(status: 503, text: "Too many passwords are being checked: try again.\n")
        page.fields.append("Retry-After", "1")
        return page
    }

    /// Nobody serves what a gateway was asked for.
    static var noRoute: HTTPProxyPage {
        page(404, "There is nothing here.", ProxyStatus(error: "destination_not_found"))
    }

    static var overloaded: HTTPProxyPage {
        var page = page(503, "Too many requests at once: try again.", ProxyStatus(error: "connection_limit_reached"))
        page.fields.append("Retry-After", "1")
        return page
    }

    /// The server has the request, and says nothing.
    static var noResponse: HTTPProxyPage {
        page(504, "The server has not answered in time.", ProxyStatus(error: "http_response_timeout"))
    }

    static func moved(to place: String, method: String) -> HTTPProxyPage {
        let keepsMethod = method != "GET" && method != "HEAD"
        var page = HTTPProxyPage(status: keepsMethod ? 308 : 301, text: "\(place)\n")
        page.fields.append("Location", place)
        return page
    }

    static var notHere: HTTPProxyPage {
        let text = "This is an HTTP proxy of bootstrap. Browsers take their settings from /proxy.pac.\n"
        return HTTPProxyPage(status: 404, text: text)
    }

    private static func page(_ status: Int, _ message: String, _ reason: ProxyStatus) -> HTTPProxyPage {
        let title = "\(status) \(HTTPStatus.reason(of: status))"
        let text = "\(title)\n\n\(Printable.clean(message, limit: 2000))\n\nbootstrap proxy\n"
        var page = HTTPProxyPage(status: status, text: text)
        page.fields.append("Proxy-Status", reason.fieldValue)
        return page
    }

    /// With those that say what it is.
    var allFields: HTTPFields {
        var fields = fields
        fields.append("Content-Type", type)
        fields.append("Content-Length", "\(text.utf8.count)")
        fields.append("Cache-Control", "no-store")
        // A page of the web could have a script element load the script for browsers, and ask it for this mesh's names.
        fields.append("X-Content-Type-Options", "nosniff")
        fields.append("Cross-Origin-Resource-Policy", "same-origin")
        return fields
    }

    /// - Parameters:
    ///   - method: That of the request.
    ///   - closes: The connection ends with it.
    func response(to method: String, closes: Bool) -> [UInt8] {
        var fields = allFields
        if closes { fields.append("Connection", "close") }
        let head = HTTPResponseHead(
            status: status,
            reason: Array(HTTPStatus.reason(of: status).utf8),
            fields: fields,
            framing: .length(UInt64(text.utf8.count))
        )
        return head.bytes + (method == "HEAD" ? [] : Array(text.utf8))
    }
}
