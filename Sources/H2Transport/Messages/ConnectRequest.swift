public import Platform
public import Streams

/// A request for a tunnel: HTTP/2 CONNECT (RFC 9113 §8.5), or POST where a proxy on the way takes nothing else.
public struct ConnectRequest: Hashable, Sendable {
    /// How the tunnel is asked for.
    public struct Method: Hashable, Sendable, CustomStringConvertible {
        package enum Kind: String {
            case connect = "CONNECT"
            case post = "POST"
        }
        package let kind: Kind
        public var description: String { kind.rawValue }

        /// HTTP/2 CONNECT; `:authority` is where the tunnel ends.
        public static let connect = Method(kind: .connect)
        /// With `:scheme https` and ``ConnectRequest/path``; the body of request and response is the tunnel.
        public static let post = Method(kind: .post)
    }

    /// CONNECT, or POST.
    public var method: Method
    /// `:authority`, as sent or received; a received one has not been checked beyond HTTP's syntax.
    public var authority: String
    /// `:path` of a POST.
    public var path = "/"
    /// What goes with it, pseudo-header fields aside.
    public var headers: HeaderFields

    /// - Parameters:
    ///   - authority: Where the tunnel is to end.
    ///   - method: CONNECT, or POST.
    ///   - headers: Metadata for the other side.
    public init(to authority: Authority, method: Method = .connect, headers: HeaderFields = [:]) {
        self.init(authority: authority.description, method: method, headers: headers)
    }

    /// For a POST through a proxy, whose `:authority` is the proxy's own host.
    public init(authority: String, method: Method = .connect, headers: HeaderFields = [:]) {
        self.authority = authority
        self.method = method
        self.headers = headers
    }

    /// What the caller says about itself (W3C Baggage, Istio's keys). Never a reason to trust it.
    public var baggage: String? {
        get { headers["baggage"] }
        set { headers["baggage"] = newValue }
    }

    /// Who asked at the first hop (RFC 7239). Never a reason to trust it.
    public var forwarded: String? {
        get { headers["forwarded"] }
        set { headers["forwarded"] = newValue }
    }

    /// W3C Trace Context.
    public var traceparent: String? {
        get { headers["traceparent"] }
        set { headers["traceparent"] = newValue }
    }

    /// `x-tun`: the address beyond the proxy that `:authority` names. Inside the tunnel runs TLS from end to end.
    public var tunnelDestination: String? {
        get { headers["x-tun"] }
        set { headers["x-tun"] = newValue }
    }

    /// `x-service`: the name the caller dialled.
    public var service: String? {
        get { headers["x-service"] }
        set { headers["x-service"] = newValue }
    }

    /// The credential for the proxy. A secret: never logged, never entered into HPACK's tables.
    public var authorization: String? {
        get { headers["authorization"] }
        set { headers["authorization"] = newValue }
    }

    /// Where the tunnel ends: `x-tun` where the request has one, else `:authority`.
    ///
    /// Throws ``Streams/StreamError`` with code ``Streams/StreamError/Code/badRequest`` when that is not `host:port`.
    public func destination() throws(StreamError) -> Authority {
        try StreamError.reading(Authority(parsing: tunnelDestination ?? authority))
    }
}
