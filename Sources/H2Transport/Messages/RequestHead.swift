/// The head of a request, whatever it asks for (RFC 9113 §8.3.1). An object: it is handed around, and streams that ask
/// for the same have it in common.
package final class RequestHead: Sendable {
    /// `:method`.
    package let method: String
    /// `:scheme` and `:path`; CONNECT has neither.
    package let scheme: String?
    package let path: String?
    /// `:authority`.
    package let authority: String
    package let fields: HeaderFields

    package init(
        _ method: String,
        scheme: String? = nil,
        authority: String,
        path: String? = nil,
        fields: HeaderFields = [:]
    ) {
        self.method = method
        self.scheme = scheme
        self.authority = authority
        self.path = path
        self.fields = fields
    }

    /// A request for a tunnel.
    package convenience init(_ request: ConnectRequest) {
        let isPost = request.method == .post
        self.init(
            isPost ? "POST" : "CONNECT",
            scheme: isPost ? "https" : nil,
            authority: request.authority,
            path: isPost ? request.path : nil,
            fields: request.headers
        )
    }

    /// Whether this asks for a stream that is there already: the field says which, and proves that the client may.
    var resumesStream: Bool { (fields["resumable"]?.utf8.count ?? 0) > 1 }

    /// Whether this asks for a tunnel: by CONNECT, or by POST.
    var opensTunnel: Bool { method == "CONNECT" || method == "POST" }

    /// Whether a `host` field names anything but what `:authority` does, which makes a request malformed (RFC 9113
    /// §8.3.1).
    var contradictsHost: Bool {
        guard let host = fields["host"], !authority.isEmpty else { return false }
        return host != authority && normalized(host) != normalized(authority)
    }

    /// Lower-case, and without the scheme's own port.
    private func normalized(_ host: String) -> Substring {
        let host = host.lowercased()[...]
        switch scheme {
        case "https" where host.hasSuffix(":443"): return host.dropLast(4)
        case "http" where host.hasSuffix(":80"): return host.dropLast(3)
        default: return host
        }
    }
}

extension ConnectRequest {
    /// The head as that of a request for a tunnel, which it need not be.
    init(_ head: RequestHead) {
        self.init(authority: head.authority, method: head.method == "POST" ? .post : .connect, headers: head.fields)
        if method == .post, let path = head.path { self.path = path }
    }
}
