import HTTP1
import Platform

/// Where a request to an HTTP proxy goes (RFC 9112 §3.2).
enum HTTPProxyTarget: Hashable, Sendable {
    /// CONNECT: a stream of bytes.
    case tunnel(Authority)
    /// `http://…`: a request to that server, with this target.
    case server(Authority, path: String)
    /// The proxy itself.
    case own(path: String)

    init(of head: HTTPRequestHead) throws(HTTPError) {
        let target = head.target
        // It would show its client what this proxy and those after it add, and nobody needs it.
        guard head.method != "TRACE" else { throw HTTPError(501, "TRACE is not served") }
        if head.method == "CONNECT" {
            guard let authority = Self.authority(target[...], defaultPort: nil) else {
                throw HTTPError(400, "CONNECT names no host:port")
            }
            self = .tunnel(authority)
            return
        }
        guard !target.utf8.contains(UInt8(ascii: "#")) else { throw HTTPError(400, "the target has a fragment") }
        if target.hasPrefix("/") {
            self = .own(path: target)
            return
        }
        guard target.prefix(7).lowercased() == "http://" else {
            throw HTTPError(400, "a proxy takes http:// targets, and https by CONNECT")
        }
        let rest = target.dropFirst(7)
        let end = rest.firstIndex { $0 == "/" || $0 == "?" } ?? rest.endIndex
        guard let authority = Self.authority(rest[..<end], defaultPort: 80) else {
            throw HTTPError(400, "the target names no host")
        }
        var path = String(rest[end...])
        if !path.hasPrefix("/") { path = path.isEmpty && head.method == "OPTIONS" ? "*" : "/" + path }
        self = .server(authority, path: path)
    }

    static func authority(_ text: Substring, defaultPort: UInt16?) -> Authority? {
        // A user in a URL is a way of hiding where it leads.
        guard !text.isEmpty, !text.contains("@") else { return nil }
        let hasPort = text.last != "]" && text.contains(":")
        if hasPort { return try? Authority(parsing: String(text)) }
        return defaultPort.flatMap { try? Authority(parsing: "\(text):\($0)") }
    }

    /// As the Host field of a request for `http` has it.
    static func hostField(of authority: Authority) -> String {
        let text = authority.description
        return authority.port == 80 ? String(text.dropLast(3)) : text
    }
}

/// What a proxy changes in the heads that it passes on.
enum HTTPProxyHeads {
    /// Belong to one connection and not to the message (RFC 9110 §7.6.1), or are written anew.
    static let hopByHop: Set<String> = [
        "connection", "keep-alive", "proxy-connection", "proxy-authorization", "proxy-authenticate",
        "proxy-authentication-info", "te", "transfer-encoding", "upgrade", "http2-settings",
    ]

    /// More proxies than this are no way but a circle.
    private static let longestVia = 10

    /// - Throws: 508 for a request that goes round in a circle.
    static func request(
        _ head: HTTPRequestHead,
        to authority: Authority,
        path: String
    ) throws(HTTPError) -> (head: HTTPRequestHead, upgrade: String?) {
        try checkLoop(head)
        let upgrade = Self.upgrade(head)
        var fields = HTTPFields()
        fields.append("Host", HTTPProxyTarget.hostField(of: authority))
        let dropped = hopByHop.union(["host", "content-length"] + head.fields.list("connection"))
        fields.all += head.fields.all.filter { !dropped.contains($0.name.lowercased()) }
        if head.version == .http10 { fields.remove("expect") }
        if let hops = try maxForwards(head) { fields.replace("Max-Forwards", "\(hops > 0 ? hops - 1 : 0)") }
        switch head.framing {
        case .length(let count): fields.append("Content-Length", "\(count)")
        case .chunked: fields.append("Transfer-Encoding", "chunked")
        case .none, .untilClose: break
        }
        fields.append("Via", "1.\(head.version.rawValue) bootstrap")
        if let upgrade {
            fields.append("Connection", "Upgrade")
            fields.append("Upgrade", upgrade)
        }
        let next = HTTPRequestHead(
            method: head.method,
            target: path,
            version: .http11,
            fields: fields,
            framing: head.framing
        )
        return (next, upgrade)
    }

    /// - Throws: 508 for a request that goes round in a circle.
    static func checkLoop(_ head: HTTPRequestHead) throws(HTTPError) {
        guard head.fields.list("via").count < longestVia else {
            throw HTTPError(508, "the request has come through \(longestVia) proxies: that is taken for a loop")
        }
    }

    /// Through how many proxies an `OPTIONS` may go on (RFC 9110 §7.6.2); nil: any number. In other requests it means
    /// nothing.
    static func maxForwards(_ head: HTTPRequestHead) throws(HTTPError) -> UInt64? {
        guard head.method == "OPTIONS" else { return nil }
        let values = head.fields.values("max-forwards")
        guard let text = values.first else { return nil }
        guard values.count == 1, !text.isEmpty, text.utf8.allSatisfy({ (0x30...0x39).contains($0) }) else {
            throw HTTPError(400, "the Max-Forwards is no number")
        }
        return UInt64(text) ?? .max
    }

    /// WebSocket only: what `h2c` would make of the connection is another way of sending requests past the proxy.
    private static func upgrade(_ head: HTTPRequestHead) -> String? {
        guard head.version == .http11, head.framing == .none, head.fields.list("connection").contains("upgrade"),
            head.fields.list("upgrade") == ["websocket"]
        else { return nil }
        return "websocket"
    }

    /// - Parameters:
    ///   - framing: How the content goes to the client.
    ///   - closes: The connection to the client ends with it.
    static func response(
        _ head: HTTPResponseHead,
        to request: HTTPRequestHead,
        framing: HTTPFraming,
        closes: Bool
    ) -> HTTPResponseHead {
        var fields = HTTPFields()
        var dropped = hopByHop.union(head.fields.list("connection"))
        // What a HEAD or 304 says of content that does not follow is for the client.
        if head.framing != .none { dropped.insert("content-length") } else { dropped.remove("content-length") }
        if head.status < 200 || head.status == 204 { dropped.insert("content-length") }
        fields.all = head.fields.all.filter { !dropped.contains($0.name.lowercased()) }
        switch framing {
        case .length(let count): fields.append("Content-Length", "\(count)")
        case .chunked: fields.append("Transfer-Encoding", "chunked")
        case .none, .untilClose: break
        }
        if head.status == 101 {
            fields.append("Connection", "Upgrade")
            fields.append("Upgrade", head.fields.first("upgrade") ?? "websocket")
        } else if closes, head.status >= 200 {
            fields.append("Connection", "close")
        }
        fields.append("Via", "1.\(head.version.rawValue) bootstrap")
        return HTTPResponseHead(
            status: head.status,
            reason: head.reason,
            version: .http11,
            fields: fields,
            framing: framing
        )
    }
}
