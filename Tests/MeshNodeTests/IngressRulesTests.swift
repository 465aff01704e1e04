import H2Transport
import HTTP1
import MeshIdentity
import MeshPolicy
import Platform
import Streams
import Testing

@testable import MeshNode

/// Where a gateway sends requests, and what it makes of their heads: values.
@Suite struct IngressRulesTests {
    private static func head(_ line: String, _ fields: String) throws -> HTTPRequestHead {
        let bytes = Array("\(line) HTTP/1.1\r\n\(fields)\r\n".utf8)
        var parser = HTTPHeadParser()
        let end = try #require(try parser.end(in: bytes, from: 0))
        return try parser.request(bytes[..<end])
    }

    private static func table(_ routes: String) throws -> RouteTable {
        let text =
            "identity: /i\nlisteners:\n- {name: a, bind: '127.0.0.1:1', protocol: http, routes: [\(routes)]}\n"
        return RouteTable(try NodeConfiguration.parse(text, file: "f").listeners[0].ingress.routes)
    }

    @Test(arguments: [
        ("api.example.org", "/v1/x", "a:1"), ("api.example.org", "/v1", "a:1"), ("api.example.org", "/v10", "b:1"),
        ("api.example.org", "/", "b:1"), ("www.example.org", "/v1", "b:1"), ("x.y.example.org", "/", "b:1"),
        ("example.org", "/", "c:1"), ("example.net", "/static/x", "c:1"), ("example.net", "/x", nil),
        ("notexample.org", "/", nil), (nil, "/static", "c:1"), (nil, "/", nil), ("late.example.com", "/v1", "d:1"),
    ])
    func theFirstMatchCounts(host: String?, path: String, to: String?) throws {
        let table = try Self.table(
            "{host: API.example.org, path: /v1/, to: 'a:1'}, {host: '*.example.org', to: 'b:1'}, {path: /static, to: 'c:1'}, "
                + "{host: example.org, to: 'c:1'}, {host: late.example.com, path: /v1, to: 'd:1'}"
        )
        #expect(table.route(host: host, path: try HTTPPath(parsing: path[...]))?.to.description == to)
    }

    /// The order of the file decides, whatever kind of host stands first.
    @Test func aPatternBeforeANameCounts() throws {
        let table = try Self.table("{host: '*.a.b', path: /x, to: 'p:1'}, {host: c.a.b, to: 'n:1'}")
        #expect(table.route(host: "c.a.b", path: try HTTPPath(parsing: "/x"))?.to.host == "p")
        #expect(table.route(host: "c.a.b", path: .root)?.to.host == "n")
    }

    @Test(arguments: [
        ("GET /a?b=%2F..", "Host: Api.Example.org:8080\r\n", "api.example.org", "/a", "/a?b=%2F.."),
        ("GET http://a/x", "Host: A:80\r\n", "a", "/x", "/x"), ("GET HTTPS://a?q", "Host: a\r\n", "a", "/", "/?q"),
        ("OPTIONS *", "Host: a\r\n", "a", "/", "*"), ("GET //%61", "Host: [::1]:80\r\n", "::1", "/a", "//%61"),
    ])
    func targetsAreFound(line: String, fields: String, host: String, path: String, target: String) throws {
        let found = try IngressTarget(of: Self.head(line, fields))
        #expect(found.host == host && found.path.description == path && found.target == target)
    }

    @Test(arguments: [
        ("CONNECT a:1", 501), ("TRACE /", 501), ("GET /#x", 400), ("GET *", 400), ("GET http://b/", 400),
        ("GET http://u@a/", 400), ("GET ftp://a/", 400), ("GET a", 400), ("GET /../b", 400), ("GET /%2e%2E/b", 400),
        ("GET /%2Fb", 400), ("GET /%00", 400), ("GET http:///x", 400),
    ])
    func targetsAreRefused(line: String, status: Int) throws {
        let head = try Self.head(line, "Host: a\r\n")
        let error = #expect(throws: HTTPError.self) { try IngressTarget(of: head) }
        #expect(error?.status == status)
    }

    @Test func hostsAreHosts() throws {
        for host in ["a..b", "-a", "127.1", "a:0", "a:99999"] {
            let head = try Self.head("GET /", "Host: \(host)\r\n")
            #expect(throws: HTTPError.self, "\(host)") { try IngressTarget(of: head) }
        }
    }

    private static func rewritten(_ fields: String, certificate: String? = nil) throws -> (HTTPRequestHead, String?) {
        let head = try head("GET /x", "Host: web.example.org\r\n" + fields)
        return try IngressHeads.request(
            head,
            IngressTarget(of: head),
            to: Authority(parsing: "web.prod:80"),
            from: .init(address: .loopbackIPv6, isSecure: true, certificate: certificate)
        )
    }

    @Test func whatOthersClaimIsTakenAway() throws {
        let claims = [
            "X-Forwarded-Client-Cert", "Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X_Forwarded_For",
            "x-forwarded_host", "X-Forwarded-Anything", "Baggage", "X-Tun", "Proxy-Authorization", "Proxy-Status",
            "Proxy",
            "X-Real-IP", "TE", "Keep-Alive", "HTTP2-Settings", "Transfer_Encoding", "Content_Length", "Keep_Alive",
        ].filter { $0 != "Proxy" }
        let fields = claims.map { "\($0): evil\r\n" }.joined() + "Connection: X-Mine\r\nX-Mine: evil\r\nX-Kept: 1\r\n"
        let (head, upgrade) = try Self.rewritten(fields + "traceparent: 00-1-2-01\r\n")
        #expect(upgrade == nil)
        #expect(!String(decoding: head.bytes, as: UTF8.self).contains("evil"))
        #expect(
            head.fields.all.map { "\($0.name): \($0.text)" } == [
                "Host: web.example.org", "X-Kept: 1", "traceparent: 00-1-2-01", "X-Forwarded-For: ::1",
                "X-Forwarded-Proto: https", "X-Forwarded-Host: web.example.org",
                "Forwarded: for=\"[::1]\";host=\"web.example.org\";proto=https", "Via: 1.1 bootstrap",
            ]
        )
        let certificate = "By=spiffe://a/ns/b/sa/c;URI=spiffe://a/ns/b/sa/d"
        #expect(
            try Self.rewritten("", certificate: certificate).0.fields.values("x-forwarded-client-cert") == [certificate]
        )
    }

    @Test(arguments: [
        ("websocket", "websocket"), ("SPDY/3.1", "spdy/3.1"), ("h2c", nil), ("websocket, h2c", nil), ("HTTP/2.0", nil),
        ("TLS/1.0", nil), ("websocket\u{600},h2c", nil), ("websocket,\u{301}h2c", nil), ("websocket;h2c", nil),
        ("h 2 c", nil), ("websocket h2c", nil), ("\"websocket\"", nil), ("webs\u{F6}cket", nil),
    ])
    func onlyOtherProtocolsAreUpgradedTo(name: String, expected: String?) throws {
        #expect(try Self.rewritten("Connection: keep-alive, Upgrade\r\nUpgrade: \(name)\r\n").1 == expected)
        #expect(try Self.rewritten("Upgrade: \(name)\r\n").1 == nil, "a field for the connection must be named as such")
    }

    /// The one place where a request of the world becomes a stream's.
    @Test func policySeesMethodAndPath() throws {
        var facts = PeerFacts()
        let destination = try Authority(parsing: "web.prod:80")
        let path = "/%61?query"
        let anybody = IngressClient.request(of: facts, to: destination, head: ("DELETE", path))
        #expect(anybody.source == .unauthenticated && anybody.transport == nil)
        #expect(anybody.details == RequestDetails(method: "DELETE", path: "/a"))
        #expect(anybody.details?.isTokenRead == false)
        let ann = IngressClient.request(of: facts, to: destination, head: ("DELETE", path), principal: "i/ann")
        #expect(ann.details == RequestDetails(method: "DELETE", path: "/a", principal: "i/ann", isTokenRead: true))
        facts.identity = try SPIFFEID("spiffe://a/ns/b/sa/c")
        let peer = IngressClient.request(of: facts, to: destination)
        #expect(peer.source == .peer(try SPIFFEID("spiffe://a/ns/b/sa/c")) && peer.details == nil)
    }

    /// Who stands still at two looks goes; whoever moves between them stays.
    @Test func aClientIsWaitedForTwice() {
        var clock = HTTPExchangeClock()
        func stands() -> Bool { clock.look() }
        #expect(!stands() && !stands(), "nobody waits for it")
        clock.clientHasNothing()
        #expect(!stands())
        clock.clientHasSent()
        clock.clientHasNothing()
        #expect(!stands())
        #expect(stands())
        clock.clientHasTaken()
        clock.clientEnds()
        func hasGone() -> Bool { clock.lookAfterEnd() }
        #expect(clock.clientHasEnded && !hasGone())
        #expect(hasGone())
        clock.start()
        clock.clientIsFull()
        #expect(!stands())
        clock.clientHasRoom()
        #expect(!stands())
    }

    @Test(arguments: [
        ("protocol: http", "needs 'routes'"),
        ("protocol: https, redirect: https, routes: [{to: 'a:1'}]", "'redirect' is for"),
        ("protocol: http, hsts: 1, redirect: https", "'hsts' is for protocol https only"),
        (
            "protocol: http, credentials: [x], redirect: https",
            "'credentials' is for protocols tls, https and hbone only"
        ),
        ("protocol: tls, forwardTo: 'a:1', routes: [{to: 'a:1'}]", "'routes' is for protocols http and https only"),
        ("protocol: https, forwardTo: 'a:1', routes: [{to: 'a:1'}]", "'forwardTo' means nothing with protocol https"),
        ("protocol: tls", "protocol tls needs 'forwardTo'"),
        ("protocol: http, routes: []", "'routes' is an empty list"),
        ("protocol: http, routes: [{to: 'a'}]", "'to': authority 'a' has no port"),
        ("protocol: http, routes: [{host: 'a b', to: 'a:1'}]", "'host': host 'a b' has a character"),
        ("protocol: http, routes: [{host: '*.1.2.3.4', to: 'a:1'}]", "'*.1.2.3.4' is neither a host name nor *.DOMAIN"),
        ("protocol: http, routes: [{path: v1, to: 'a:1'}]", "the path does not begin with /"),
        ("protocol: http, routes: [{path: '/v1/*', to: 'a:1'}]", "write the beginning of a path"),
        ("protocol: http, routes: [{path: '/a/../b', to: 'a:1'}]", "the path has a segment . or .."),
        ("protocol: http, routes: [{to: 'a:1', h2: maybe}]", "'h2' must be true or false"),
        ("protocol: http, routes: [{to: 'a:1'}, {host: b, to: 'c:1'}]", "route 'b/' is never used"),
        (
            "protocol: http, routes: [{host: b, path: /x, to: 'a:1'}, {host: B, path: /x/, to: 'c:1'}]",
            "has the same 'host'"
        ),
        (
            "protocol: tls, forwardTo: 'a:1', jwt: {issuer: i, audience: [a], jwks: k}",
            "'jwt' is for protocols http, https, http-proxy and hbone"
        ),
        (
            "protocol: socks5, jwt: {issuer: i, audience: [a], jwks: k}",
            "'jwt' is for protocols http, https, http-proxy and"
        ),
        (
            "protocol: http-proxy, users: u, jwt: {issuer: i, audience: [a], jwks: k}",
            "'users' and 'jwt' both say who may come in"
        ),
        (
            "protocol: http-proxy, jwt: {issuer: i, audience: [a], jwks: k, forwardToken: true}",
            "'forwardToken' is for http and https"
        ),
        ("protocol: http, redirect: http", "'http' is neither https nor https:PORT"),
        ("protocol: https, routes: [{to: 'a:1'}], hsts: 1y", "'1y' is not a number of seconds"),
        ("protocol: https, routes: [{to: 'a:1'}], clients: all", "'clients' must be one of none, optional, mesh"),
        ("protocol: https, routes: [{to: 'a:1'}], timeouts: {head: 5}", "'5' is not a length of time"),
        ("protocol: https, routes: [{to: 'a:1'}], limits: {body: 1TB}", "'1TB' is not a size"),
        ("protocol: https, routes: [{to: 'a:1'}], limits: {fields: 1}", "'1' is not a number from 10 to 1000"),
    ])
    func mistakesAreTold(listener: String, message: String) throws {
        let text = "identity: /i\nlisteners:\n- {name: a, bind: '127.0.0.1:1', \(listener)}\n"
        let error = #expect(throws: ConfigurationError.self) { try NodeConfiguration.parse(text, file: "f") }
        let messages = (error?.issues ?? []).map { "\($0)" }
        #expect(messages.count == 1 && messages[0].hasPrefix("f:3:") && messages[0].contains(message), "\(messages)")
    }
}
