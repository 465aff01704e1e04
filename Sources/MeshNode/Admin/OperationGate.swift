import HTTP1
import MeshPolicy
import Platform

/// What a server of a node's operation is asked for, once it may be.
struct OperationRequest: Hashable, Sendable {
    var method: String
    /// Without the query.
    var path: String
    var query: [String: String] = [:]
}

struct OperationResponse: Hashable, Sendable {
    var status: Int
    var type = "text/plain; charset=utf-8"
    var body: [UInt8]
    /// What the resource can be asked, of a 405.
    var allow: String?
    /// In seconds, of a 503 that will be over.
    var retryAfter: Int?
    /// What a browser may load for it.
    var contentPolicy = "default-src 'none'; frame-ancestors 'none'"

    init(_ status: Int, _ text: String) {
        self.status = status
        body = Array("\(text)\n".utf8)
    }

    init(_ status: Int = 200, type: String, body: [UInt8]) {
        self.status = status
        self.type = type
        self.body = body
    }

    static func notAllowed(_ allow: String) -> OperationResponse {
        var response = OperationResponse(405, "this answers \(allow) only")
        response.allow = allow
        return response
    }
}

/// Says which requests are answered. A browser on this machine carries the requests of any page to loopback: a page
/// must neither read here nor change anything, under no name that its owner has pointed here.
struct OperationGate: Hashable, Sendable {
    /// The address it listens on; nil: a Unix socket, which no browser reaches.
    let bind: IPAddress?

    /// The field without which nothing is changed: no form can send it, and no script of another origin may.
    static let header = "x-bootstrap"

    func check(_ head: HTTPRequestHead) -> Result<OperationRequest, Refusal> {
        guard head.framing.isEmpty else {
            return .failure(Refusal(413, "there is nothing here that takes content: parameters are in the query"))
        }
        guard head.method == "GET" || head.method == "HEAD" || head.method == "POST" else {
            return .failure(Refusal(405, "only GET, HEAD and POST are known here"))
        }
        guard head.target.utf8.first == UInt8(ascii: "/") else {
            return .failure(Refusal(400, "the target is not a path"))
        }
        if let bind {
            guard let host = head.fields.first("host"), Self.isOwn(host, bind) else {
                let reason = "the Host field names another host: ask for the address, or for localhost"
                return .failure(Refusal(403, reason))
            }
            if let origin = head.fields.first("origin"), origin != "http://\(host)" {
                return .failure(Refusal(403, "a page of another origin has no business here"))
            }
            let site = head.fields.first("sec-fetch-site") ?? "none"
            guard site == "none" || site == "same-origin" else {
                return .failure(Refusal(403, "a page of another site has no business here"))
            }
        }
        if head.method == "POST", head.fields.first(Self.header) != "1" {
            return .failure(Refusal(403, "a POST needs the field '\(Self.header): 1', which no form can send"))
        }
        guard let request = Self.request(head) else {
            let reason =
                "the query is not understood: at most \(Self.parameters) times NAME=VALUE, each name once, in UTF-8 that is "
                + "percent-encoded, without control characters"
            return .failure(Refusal(400, reason))
        }
        return .success(request)
    }

    struct Refusal: Error, Hashable, Sendable {
        let response: OperationResponse

        init(_ status: Int, _ text: String) { response = OperationResponse(status, text) }
    }

    /// A name can be made to lead here; an address, and `localhost`, cannot. Where it listens beyond loopback, whoever
    /// reads it may have a name for it.
    private static func isOwn(_ host: String, _ bind: IPAddress) -> Bool {
        let authority = (try? Authority(parsing: host)) ?? (try? Authority(parsing: "\(host):80"))
        guard let authority else { return false }
        if authority.host == "localhost" { return true }
        if let address = authority.address { return !bind.isLoopback || address.isLoopback }
        return !bind.isLoopback
    }

    /// More are nobody's question.
    private static let parameters = 16

    /// nil: its query could be read in two ways, or in none.
    private static func request(_ head: HTTPRequestHead) -> OperationRequest? {
        let parts = head.target.split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)
        var request = OperationRequest(method: head.method == "HEAD" ? "GET" : head.method, path: String(parts[0]))
        for pair in (parts.count > 1 ? parts[1] : "").split(separator: "&") {
            let words = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard let name = decoded(words[0]), let value = words.count > 1 ? decoded(words[1]) : "",
                request.query.updateValue(value, forKey: name) == nil, request.query.count <= parameters
            else { return nil }
        }
        return request
    }

    /// A name or a value of a query (RFC 3986 §2.1, §3.4): a plus is a plus, and no form's space.
    private static func decoded(_ text: Substring) -> String? {
        var bytes: [UInt8] = []
        var rest = text.utf8[...]
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "%") else {
                bytes.append(byte)
                continue
            }
            guard let high = rest.popFirst().flatMap(digit), let low = rest.popFirst().flatMap(digit) else {
                return nil
            }
            bytes.append(high << 4 | low)
        }
        guard let text = String(validating: bytes, as: UTF8.self) else { return nil }
        let isPlain = text.unicodeScalars.allSatisfy { $0.value >= 0x20 && !(0x7F..<0xA0).contains($0.value) }
        return isPlain ? text : nil
    }

    private static func digit(_ byte: UInt8) -> UInt8? {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
        case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
        case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
        default: nil
        }
    }
}
