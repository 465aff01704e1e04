import HTTP1
package import Platform
package import Streams

/// What a request to a gateway asks for (RFC 9112 §3.2).
struct IngressTarget: Hashable, Sendable {
    /// Normalized and without a port; nil where a client of HTTP/1.0 names none.
    let host: String?
    /// As the server gets it.
    let hostField: String?
    let path: HTTPPath
    /// In origin form, or `*`.
    let target: String

    init(of head: HTTPRequestHead) throws(HTTPError) {
        switch head.method {
        case "CONNECT": throw HTTPError(501, "CONNECT is for proxies, and this is none")
        // It would show its client what this gateway and those after it add, and nobody needs it.
        case "TRACE": throw HTTPError(501, "TRACE is not served")
        default: break
        }
        let text = head.target
        guard !text.utf8.contains(UInt8(ascii: "#")) else { throw HTTPError(400, "the target has a fragment") }
        let field = head.fields.first("host").flatMap { $0.isEmpty ? nil : $0 }
        if text.utf8.first == UInt8(ascii: "/") || text == "*" && head.method == "OPTIONS" {
            hostField = field
            host = try field.map { value throws(HTTPError) in try Self.authority(value[...], port: 80).host }
            target = text
        } else {
            let prefix = text.prefix { $0 != ":" }.lowercased()
            guard prefix == "http" || prefix == "https", text.dropFirst(prefix.count).hasPrefix("://") else {
                throw HTTPError(400, "the target is neither a path nor an http URL")
            }
            let rest = text.dropFirst(prefix.count + 3)
            let end = rest.firstIndex { $0 == "/" || $0 == "?" } ?? rest.endIndex
            let port: UInt16 = prefix == "http" ? 80 : 443
            let authority = try Self.authority(rest[..<end], port: port)
            // RFC 9112 §3.2.2 has the target count. Whoever looks at the other one sees another request.
            if let field {
                let other = try Self.authority(field[...], port: port)
                guard other == authority else { throw HTTPError(400, "the target and the Host field name two hosts") }
            }
            host = authority.host
            hostField = field ?? String(rest[..<end])
            target = rest[end...].hasPrefix("/") ? String(rest[end...]) : "/" + rest[end...]
        }
        path = text == "*" ? .root : try HTTPPath(parsing: target.prefix { $0 != "?" })
    }

    private static func authority(_ text: Substring, port: UInt16) throws(HTTPError) -> Authority {
        guard let authority = HTTPProxyTarget.authority(text, defaultPort: port) else {
            throw HTTPError(400, "there is no such host")
        }
        return authority
    }
}

extension NodeConfiguration.Listener {
    /// Where a request for `url` goes by an `http` or `https` listener; nil: no route matches.
    ///
    /// - Throws: ``StreamError`` with code `badRequest` where the request would be refused.
    package func destination(of url: String) throws(StreamError) -> Authority? {
        let head = HTTPRequestHead(method: "GET", target: url, version: .http11, fields: HTTPFields(), framing: .none)
        do throws(HTTPError) {
            guard !url.hasPrefix("/") else { throw HTTPError(400, "write a URL, like https://HOST/PATH") }
            let target = try IngressTarget(of: head)
            return RouteTable(ingress.routes).route(host: target.host, path: target.path)?.to
        } catch {
            throw StreamError(.badRequest, error.message)
        }
    }
}

/// What a gateway changes in the heads of requests.
enum IngressHeads {
    /// Who sends a request, as the server is told.
    struct Client {
        var address: IPAddress
        var isSecure: Bool
        /// `x-forwarded-client-cert`; nil: it has shown no certificate.
        var certificate: String?
        /// Of its HTTP, as `via` has it.
        var version = "1.1"
    }

    /// What servers take for this gateway's word, or for that of whoever is in front of it.
    private static let claims: Set<String> = [
        "forwarded", "baggage", "x-tun", "x-real-ip", "http2-settings", "x-istio-source",
    ]
    private static let claimPrefixes = ["x-forwarded-", "proxy-"]

    /// - Throws: 508 for a request that goes round in a circle.
    static func request(
        _ head: HTTPRequestHead,
        _ target: IngressTarget,
        to destination: Authority,
        from client: Client
    ) throws(HTTPError) -> (head: HTTPRequestHead, upgrade: String?) {
        try HTTPProxyHeads.checkLoop(head)
        let upgrade = upgrade(head)
        let named = Set(head.fields.list("connection"))
        var fields = HTTPFields()
        let host = target.hostField ?? HTTPProxyTarget.hostField(of: destination)
        fields.append("Host", host)
        fields.all += head.fields.all.filter { field in
            let name = field.name.lowercased()
            let plain = hyphenated(name)
            return !named.contains(name) && !HTTPProxyHeads.hopByHop.contains(plain) && !isClaim(name)
                && plain != "host" && plain != "content-length"
        }
        if head.version == .http10 { fields.remove("expect") }
        switch head.framing {
        case .length(let count): fields.append("Content-Length", "\(count)")
        case .chunked: fields.append("Transfer-Encoding", "chunked")
        case .none, .untilClose: break
        }
        let scheme = client.isSecure ? "https" : "http"
        fields.append("X-Forwarded-For", "\(client.address)")
        fields.append("X-Forwarded-Proto", scheme)
        fields.append("X-Forwarded-Host", host)
        let address = client.address.isIPv4 ? "\(client.address)" : "\"[\(client.address)]\""
        fields.append("Forwarded", "for=\(address);host=\"\(host)\";proto=\(scheme)")
        if let certificate = client.certificate { fields.append("X-Forwarded-Client-Cert", certificate) }
        fields.append("Via", "\(client.version) bootstrap")
        if let upgrade {
            fields.append("Connection", "Upgrade")
            fields.append("Upgrade", upgrade)
        }
        let next = HTTPRequestHead(
            method: head.method,
            target: target.target,
            version: .http11,
            fields: fields,
            framing: head.framing
        )
        return (next, upgrade)
    }

    /// Servers behind CGI and its heirs do not tell `-` and `_` apart.
    static func isClaim(_ lowercased: String) -> Bool {
        let name = hyphenated(lowercased)
        return claims.contains(name) || claimPrefixes.contains { name.hasPrefix($0) }
    }

    private static func hyphenated(_ name: String) -> String {
        guard name.utf8.contains(UInt8(ascii: "_")) else { return name }
        return String(decoding: name.utf8.map { $0 == UInt8(ascii: "_") ? UInt8(ascii: "-") : $0 }, as: UTF8.self)
    }

    /// Any protocol that is no other version of HTTP: what `h2c` would make of the connection is a way of sending
    /// requests past this gateway.
    private static func upgrade(_ head: HTTPRequestHead) -> String? {
        guard head.version == .http11, head.framing == .none, head.fields.list("connection").contains("upgrade"),
            case let protocols = head.fields.list("upgrade"), protocols.count == 1, let name = protocols.first,
            name != "h2c", !name.hasPrefix("http"), !name.hasPrefix("tls"), !name.isEmpty,
            // Whatever else stands there, the server may read in another way.
            head.fields.values("upgrade").joined().utf8.allSatisfy({
                HTTPHeadParser.isTokenByte($0) || $0 == UInt8(ascii: "/")
            })
        else { return nil }
        return name
    }
}
