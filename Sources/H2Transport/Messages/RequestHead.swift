/// The head of a request, whatever it asks for (RFC 9113 §8.3.1).
package struct RequestHead: Hashable, Sendable {
    /// `:method`.
    package var method: String
    /// `:scheme` and `:path`; CONNECT has neither.
    package var scheme: String?
    package var path: String?
    /// `:authority`.
    package var authority: String
    package var fields: HeaderFields

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
    init(_ request: ConnectRequest) {
        method = request.method.description
        authority = request.authority
        fields = request.headers
        if request.method == .post {
            scheme = "https"
            path = request.path
        }
    }

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
