import H2Transport
import HTTP1

/// Heads of HTTP/2 as those of HTTP/1.1, and back (RFC 9113 §8.3). What nghttp2 has refused already is not here: fields
/// that belong to a connection, pseudo-header fields that are missing, twice, or in the wrong place, bytes that no
/// field may have, and content that is not as long as it says.
enum HTTP2Heads {
    // MARK: From the client

    /// What the client asks for, as a gateway decides about it.
    ///
    /// - Parameter isEmpty: The request is over with its head.
    static func request(
        _ head: RequestHead,
        isEmpty: Bool,
        limits: HTTPLimits
    ) throws(HTTPError) -> HTTPRequestHead {
        guard !head.method.isEmpty, head.method.utf8.allSatisfy(HTTPHeadParser.isTokenByte) else {
            throw HTTPError(400, "the method has characters that it must not have")
        }
        let target = head.path ?? ""
        guard target.utf8.count <= limits.firstLine else {
            throw HTTPError(414, "the path is longer than \(limits.firstLine) bytes")
        }
        if head.method != "CONNECT" {
            guard head.scheme == "https" || head.scheme == "http" else {
                throw HTTPError(400, "the scheme is neither http nor https")
            }
            // Anything else would be read as another form of a target.
            guard target.utf8.first == UInt8(ascii: "/") || target == "*" && head.method == "OPTIONS" else {
                throw HTTPError(400, "the path does not begin with /")
            }
        }
        guard target.utf8.allSatisfy({ (0x21...0x7E).contains($0) }) else {
            throw HTTPError(400, "the path has characters that it must not have")
        }
        let host = head.authority.isEmpty ? head.fields["host"] ?? "" : head.authority
        guard !host.isEmpty, HTTPHeadParser.isHost(host) else { throw HTTPError(400, "there is no such host") }
        var fields = HTTPFields()
        fields.all.reserveCapacity(head.fields.count + 8)
        fields.append("Host", host)
        var length: UInt64?
        var cookies: [UInt8]?
        for field in head.fields {
            switch field.name {
            case "host": continue
            case "content-length":
                guard length == nil, (1...18).contains(field.value.utf8.count),
                    field.value.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let count = UInt64(field.value)
                else { throw HTTPError(400, "the content-length is no number") }
                length = count
            // Each in a field of its own, so that they are compressed; elsewhere there is one (RFC 9113 §8.2.3).
            case "cookie":
                cookies = cookies.map { $0 + [UInt8(ascii: ";"), 0x20] + field.value.utf8 } ?? Array(field.value.utf8)
            default: fields.append(field.name, field.value)
            }
        }
        if let cookies { fields.append("cookie", String(decoding: cookies, as: UTF8.self)) }
        return HTTPRequestHead(
            method: head.method,
            target: target,
            version: .http11,
            fields: fields,
            framing: length.map { .length($0) } ?? (isEmpty ? .none : .chunked)
        )
    }

    // MARK: To a server

    /// What a server of HTTP/2 gets.
    ///
    /// - Parameter takesTrailers: The client has said so, which is what gRPC asks for.
    static func request(_ head: HTTPRequestHead, takesTrailers: Bool) -> RequestHead {
        var fields = HeaderFields()
        var host = ""
        for field in head.fields.all {
            let name = lowercased(field.name)
            switch name {
            case "host": host = field.text
            case "connection", "transfer-encoding", "upgrade", "te": continue
            default: fields.append(name, field.text)
            }
        }
        if takesTrailers { fields.append("te", "trailers") }
        return RequestHead(head.method, scheme: "http", authority: host, path: head.target, fields: fields)
    }

    /// Whether a client takes trailers.
    static func takesTrailers(_ head: HTTPRequestHead) -> Bool { head.fields.list("te").contains("trailers") }

    // MARK: To the client

    /// What a client of HTTP/2 gets of a response.
    ///
    /// - Parameter added: Set in the place of what the server says.
    static func response(_ head: HTTPResponseHead, adding added: HTTPFields) -> HeaderFields {
        var fields = HeaderFields()
        let named = head.fields.list("connection")
        for field in head.fields.all {
            let name = lowercased(field.name)
            if HTTPProxyHeads.hopByHop.contains(name) || named.contains(name) { continue }
            // What a HEAD or 304 says of content that does not follow is for the client.
            if name == "content-length", head.status < 200 || head.status == 204 { continue }
            fields.append(name, text(field.value))
        }
        finish(&fields, "1.\(head.version.rawValue)", added)
        return fields
    }

    /// The same, where the server speaks HTTP/2.
    static func response(_ head: HeaderFields, adding added: HTTPFields) -> HeaderFields {
        var fields = head
        finish(&fields, "2.0", added)
        return fields
    }

    private static func finish(_ fields: inout HeaderFields, _ version: String, _ added: HTTPFields) {
        for field in added.all { fields[lowercased(field.name)] = field.text }
        fields.append("via", "\(version) bootstrap")
    }

    static func fields(of page: HTTPProxyPage) -> HeaderFields {
        var fields = HeaderFields()
        for field in page.allFields.all { fields.append(lowercased(field.name), field.text) }
        return fields
    }

    /// Trailers, without what is no trailer's.
    static func trailers(_ trailers: HTTPFields) -> HeaderFields? {
        guard !trailers.all.isEmpty else { return nil }
        var fields = HeaderFields()
        for field in trailers.all { fields.append(lowercased(field.name), text(field.value)) }
        return fields
    }

    /// As they stand behind chunks. What a gateway says itself, nobody says in its place.
    static func trailers(_ trailers: HeaderFields?) -> HTTPFields {
        var fields = HTTPFields()
        for field in trailers ?? [:] where !IngressHeads.isClaim(field.name) && !isOfHead(field.name) {
            fields.append(field.name, field.value)
        }
        return fields
    }

    /// The request's, for a server of HTTP/2.
    static func requestTrailers(_ trailers: HeaderFields?) -> HeaderFields? {
        guard let trailers else { return nil }
        var fields = HeaderFields()
        for field in trailers where !IngressHeads.isClaim(field.name) && !isOfHead(field.name) {
            fields.append(field.name, field.value)
        }
        return fields.isEmpty ? nil : fields
    }

    private static func isOfHead(_ name: String) -> Bool {
        ["transfer-encoding", "content-length", "host", "connection", "trailer", "upgrade", "te"].contains(name)
    }

    // MARK: Text

    static func lowercased(_ name: String) -> String {
        name.utf8.contains { (0x41...0x5A).contains($0) } ? name.lowercased() : name
    }

    /// Bytes that are not UTF-8 are taken for ISO 8859-1, which HTTP once had.
    static func text(_ bytes: [UInt8]) -> String {
        String(validating: bytes, as: UTF8.self)
            ?? String(String.UnicodeScalarView(bytes.map { Unicode.Scalar($0) }))
    }
}
