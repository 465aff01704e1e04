import Foundation
import MeshIdentity
import MeshNode
import Streams
import TestPeers
import Testing

/// Requests through a proxy's listener and two nodes to a server that shows what it gets.
@Suite(.timeLimit(.minutes(10))) struct HTTPProxyFrontTests {
    private static let proxy = "- {name: proxy, bind: \"127.0.0.1:0\", protocol: http-proxy}"

    /// The server, the nodes, and the proxy's port.
    private final class Setup: Sendable {
        let server: ChildProcess
        let nodes: FrontNodes
        let proxy: UInt16
        let backend: UInt16

        init(
            _ listeners: String = HTTPProxyFrontTests.proxy,
            files: [String: String] = [:],
            more: String = ""
        ) async throws {
            server = try ChildProcess(
                TestTools.python,
                [TestTools.repository + "/Tests/Peers/http1/backend.py"],
                keepsInputOpen: true
            )
            backend = try #require(UInt16(try await server.standardOutput.line { (UInt16($0) ?? 0) > 1023 }))
            let closed = FreePort.next()
            nodes = try await FrontNodes(
                listeners,
                names: [
                    "web.mesh:80": backend, "other.mesh:8080": backend, "closed.mesh:80": closed,
                    "denied.mesh:80": 9,
                ],
                denied: [9],
                files: files,
                more: more
            )
            proxy = try nodes.port("proxy")
        }

        /// What the proxy answers to these bytes, up to its end.
        func exchange(_ text: String, staysOpen: Bool = true) async throws -> (text: String, TCPClient.Ending) {
            let (bytes, ending) = try await TCPClient.exchange(
                port: proxy,
                sending: Array(text.utf8),
                staysOpen: staysOpen
            )
            return (String(decoding: bytes, as: UTF8.self), ending)
        }

        func curl(_ arguments: String...) async throws -> ChildProcess.Output {
            let common = ["-sS", "--max-time", "60", "-x", "http://127.0.0.1:\(proxy)"]
            return try await ChildProcess.run(
                "curl",
                common + arguments,
                environment: ["NO_PROXY": nil, "no_proxy": nil]
            )
        }

        func stop() async {
            await nodes.stop()
            await server.stop()
        }
    }

    private static let last = "Connection: close\r\n"

    private static func get(_ url: String, _ fields: String = "") -> String {
        "GET \(url) HTTP/1.1\r\nHost: ignored.example\r\n\(fields)\r\n"
    }

    @Test func aHeadIsRewrittenBothWays() async throws {
        let setup = try await Setup()
        let fields =
            "Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic YTpi\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\n"
            + "Keep-Alive: 5\r\nTE: trailers\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nX-Kept:  a b \r\n"
        let (text, ending) = try await setup.exchange(Self.get("http://Web.Mesh/head", fields))
        #expect(ending == .endOfStream)
        #expect(text.hasPrefix("HTTP/1.1 200 OK\r\n"))
        let parts = text.components(separatedBy: "\r\n\r\n")
        #expect(parts.count >= 2)
        #expect(parts[1] == "GET /head HTTP/1.1\r\nHost: web.mesh\r\nX-Kept: a b\r\nVia: 1.1 bootstrap")
        let head = parts[0].lowercased()
        #expect(!head.contains("x-secret") && !head.contains("keep-alive"))
        #expect(head.contains("x-seen: 1") && head.contains("via: 1.1 bootstrap") && head.contains("connection: close"))
        let other = try await setup.exchange(Self.get("http://other.mesh:8080?a=b", Self.last))
        #expect(other.text.hasSuffix("hello"))
        await setup.stop()
    }

    /// One connection of the client's, two servers, one after the other, and what comes back in its order.
    @Test func severalRequestsToSeveralHostsShareAConnection() async throws {
        let setup = try await Setup()
        let body = "POST http://web.mesh/body HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nfirst"
        let chunks =
            "POST http://web.mesh/body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nsec\r\n3;x=y\r\nond\r\n0\r\n\r\n"
        let requests =
            body + chunks + Self.get("http://other.mesh:8080/chunked") + Self.get("http://web.mesh/until-end")
            + "HEAD http://web.mesh/ HTTP/1.1\r\nHost: x\r\n\r\n" + Self.get("http://web.mesh/once")
            + Self.get("http://web.mesh/", Self.last)
        let (text, ending) = try await setup.exchange(requests)
        #expect(ending == .endOfStream)
        #expect(text.components(separatedBy: "HTTP/1.1 200 OK\r\n").count == 8, "\(text)")
        var rest = text[...]
        for part in [
            "\r\n\r\nfirst", "\r\n\r\nsecond", "4\r\none,\r\n", "5\r\nthree\r\n0\r\nX-Trailer: 1\r\n\r\n",
            "until the end\r\n0\r\n\r\n", "Content-Length: 5", "\r\n\r\nonce", "\r\n\r\nhello",
        ] {
            let range = rest.range(of: part)
            #expect(range != nil, "\(part) is not in \(rest)")
            if let range { rest = rest[range.upperBound...] }
        }
        #expect(rest.isEmpty)
        try await eventually("no stream is left") { await setup.nodes.near.liveStreams() == 0 }
        await setup.stop()
    }

    @Test func curlGetsItsFilesBothWays() async throws {
        let setup = try await Setup()
        for arguments in [[], ["-p"]] {
            let file = setup.nodes.directory.path("big\(arguments.count)")
            let curl = try await ChildProcess.run(
                "curl",
                ["-sS", "--max-time", "60", "-x", "http://127.0.0.1:\(setup.proxy)", "-o", file, "http://web.mesh/big"]
                    + arguments
            )
            #expect(curl.succeeded, "\(curl.standardError)")
            #expect(try Data(contentsOf: URL(fileURLWithPath: file)) == Data(repeating: 0x78, count: 8 << 20))
        }
        let upload = try setup.nodes.directory.write("upload", Pattern.bytes(3_000_000, seed: 5))
        for more in [[], ["-H", "Transfer-Encoding: chunked"], ["-0"]] {
            let curl = try await ChildProcess.run(
                "curl",
                ["-sS", "-x", "http://127.0.0.1:\(setup.proxy)", "-D-", "-o", setup.nodes.directory.path("back")] + more
                    + ["--data-binary", "@\(upload)", "http://web.mesh/continue"]
            )
            #expect(curl.standardOutput.contains("X-Length: 3000000"), "\(more): \(curl)")
            #expect(
                try Data(contentsOf: URL(fileURLWithPath: setup.nodes.directory.path("back")))
                    == Data(Pattern.bytes(3_000_000, seed: 5))
            )
        }
        await setup.stop()
    }

    /// Real programs through both fronts, with TLS to the very end.
    @Test func curlReachesHTTPSThroughEveryFront() async throws {
        let certificate = TestCertificates.shared.path(.server)
        let script = """
            import http.server, ssl
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain("\(certificate)/cert-chain.pem", "\(certificate)/key.pem")
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            print(server.server_address[1], flush=True)
            server.serve_forever()
            """
        let directory = TemporaryDirectory()
        try directory.write("file", Pattern.bytes(1_000_000, seed: 6))
        let server = try ChildProcess(TestTools.python, ["-c", script], directory: directory.path)
        let port = try #require(UInt16(try await server.standardOutput.line { (UInt16($0) ?? 0) > 1023 }))
        let nodes = try await FrontNodes(
            Self.proxy + "\n- {name: socks, bind: \"127.0.0.1:0\", protocol: socks5}",
            names: ["tls.mesh:443": port]
        )
        let (proxy, socks) = (try nodes.port("proxy"), try nodes.port("socks"))
        for front in ["http://127.0.0.1:\(proxy)", "socks5h://127.0.0.1:\(socks)", "socks4a://127.0.0.1:\(socks)"] {
            let file = directory.path("got")
            let curl = try await ChildProcess.run(
                "curl",
                ["-sSk", "--max-time", "60", "-x", front, "-o", file, "https://tls.mesh/file"]
            )
            #expect(curl.succeeded, "\(front): \(curl.standardError)")
            #expect(try Data(contentsOf: URL(fileURLWithPath: file)) == Data(Pattern.bytes(1_000_000, seed: 6)))
        }
        await nodes.stop()
        await server.stop()
    }

    /// A hand-over of the connection: early bytes of either side are the other protocol's.
    @Test func webSocketsPass() async throws {
        let setup = try await Setup()
        let upgrade = Self.get("http://web.mesh/ws", "Connection: Upgrade\r\nUpgrade: websocket\r\n")
        let (text, ending) = try await setup.exchange(upgrade + "early and late", staysOpen: false)
        #expect(text.hasPrefix("HTTP/1.1 101 Switching Protocols\r\n"))
        #expect(text.hasSuffix("\r\n\r\nhiearly and late"))
        #expect(ending == .endOfStream)
        let (again, _) = try await setup.exchange(
            "CONNECT web.mesh:80 HTTP/1.1\r\nHost: web.mesh:80\r\n\r\n" + Self.get("/once")
        )
        #expect(again.hasPrefix("HTTP/1.1 200 Connection established\r\n\r\nHTTP/1.1 200 OK\r\n"))
        #expect(again.hasSuffix("once"))
        await setup.stop()
    }

    /// What comes is passed on at once, not when a buffer is full.
    @Test func eventsAreNotHeldBack() async throws {
        let setup = try await Setup()
        let request = Array(Self.get("http://web.mesh/events").utf8)
        let pieces = Lock(0)
        async let received = TCPClient.exchange(
            port: setup.proxy,
            sending: request,
            staysOpen: true,
            progress: { [server = setup.server] _ in
                pieces.withLock { $0 += 1 }
                try? server.write("x")
            }
        )
        // Each event lets the next one go, behind the head, which lets the first; the server ends when the test does.
        try await eventually("events come one by one") { pieces.withLock { $0 } >= 4 }
        await setup.stop()
        let text = String(decoding: try await received.received, as: UTF8.self)
        #expect(text.contains("data: 1\n\n"))
    }

    /// A server that speaks when it is not asked is not asked again: what it says is no answer to the next request.
    @Test(arguments: ["/more", "/at-once"]) func whatNobodyAskedForIsNoAnswer(path: String) async throws {
        let setup = try await Setup()
        let client = try RawClient(port: setup.proxy)
        client.send(Self.get("http://web.mesh" + path))
        #expect(client.response().hasSuffix(path == "/more" ? "\r\n\r\nhello" : "xxxx"))
        if path == "/more" { try setup.server.write("x") }
        try await eventually("the server is gone") { await setup.nodes.near.liveStreams() == 0 }
        client.send(Self.get("http://web.mesh/", Self.last))
        #expect(client.response().hasSuffix("\r\n\r\nhello"))
        client.reset()
        await setup.stop()
    }

    @Test func errorsAreReadablePages() async throws {
        let setup = try await Setup()
        let expected: [(String, Int, String)] = [
            ("http://closed.mesh/", 503, "error=connection_refused"),
            ("http://denied.mesh/", 403, "error=http_request_denied"),
            ("http://unknown.example/", 403, "error=http_request_denied"),
            ("http://web.mesh/bad", 502, "error=http_protocol_error"),
        ]
        for (url, status, reason) in expected {
            let (text, ending) = try await setup.exchange(Self.get(url, Self.last))
            #expect(text.hasPrefix("HTTP/1.1 \(status) "), "\(url): \(text)")
            #expect(text.contains("Proxy-Status: bootstrap; \(reason)"), "\(url): \(text)")
            #expect(text.contains("\r\n\r\n\(status) "))
            #expect(ending == .endOfStream)
        }
        // An error is an answer: the next request follows on the same connection.
        let (both, _) = try await setup.exchange(
            Self.get("http://closed.mesh/") + Self.get("http://web.mesh/", Self.last)
        )
        #expect(both.hasPrefix("HTTP/1.1 503 ") && both.hasSuffix("hello"))
        // Whatever has begun does not end as if it were whole.
        let (cut, ending) = try await setup.exchange(Self.get("http://web.mesh/cut"))
        #expect(ending == .broken(ECONNRESET), "\(cut)")
        let (tunnel, _) = try await setup.exchange(
            "CONNECT closed.mesh:80 HTTP/1.1\r\nHost: closed.mesh:80\r\n\r\nGET http://web.mesh/ HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        #expect(tunnel.hasPrefix("HTTP/1.1 503 ") && tunnel.components(separatedBy: "HTTP/1.1 ").count == 2)
        await setup.stop()
    }

    /// With no content, whether it says so or not, and so the connection stays.
    @Test func optionsThatGoNoFurtherAreAnsweredHere() async throws {
        let setup = try await Setup()
        let options =
            "OPTIONS http://closed.mesh HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\nContent-Length: 0\r\n\r\n"
        let (text, ending) = try await setup.exchange(options + Self.get("http://web.mesh/", Self.last))
        #expect(text.hasPrefix("HTTP/1.1 200 OK\r\n") && text.contains("This is an HTTP proxy of bootstrap.\n"))
        #expect(text.hasSuffix("hello"))
        #expect(ending == .endOfStream)
        await setup.stop()
    }

    /// What two readers could take for two things is refused, and nothing of it reaches the server.
    @Test(arguments: [
        (
            "POST http://web.mesh/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400
        ),
        ("POST http://web.mesh/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
        ("GET http://web.mesh/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET http://web.mesh/ HTTP/1.1\nHost: a\n\n", 400),
        ("GET http://web.mesh/ HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400),
        ("GET http://web.mesh/ HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        ("GET http://user@web.mesh/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET http://web.mesh/#x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET https://web.mesh/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET web.mesh HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("CONNECT web.mesh HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("CONNECT http://web.mesh:80/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (
            "POST http://web.mesh/body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
            400
        ),
        (
            "POST http://web.mesh/body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX0\r\n\r\n",
            400
        ),
        ("GET http://web.mesh/ HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        ("\u{16}\u{3}\u{1}", 400),
        ("TRACE http://web.mesh/ HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        ("TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n", 501),
        ("OPTIONS http://web.mesh HTTP/1.1\r\nHost: a\r\nMax-Forwards: -1\r\n\r\n", 400),
        ("GET http://web.mesh/ HTTP/1.1\r\nHost: a\r\nX: " + String(repeating: "a", count: 40_000), 431),
        (
            "GET http://web.mesh/ HTTP/1.1\r\nHost: a\r\n" + String(repeating: "Via: 1.1 x\r\n", count: 10) + "\r\n",
            508
        ),
    ])
    func ambiguousRequestsEndTheConnection(request: String, status: Int) async throws {
        let setup = try await Setup()
        let (text, _) = try await setup.exchange(request + Self.get("http://web.mesh/head"))
        #expect(text.hasPrefix("HTTP/1.1 \(status) "), "\(text)")
        #expect(text.contains("Connection: close"))
        #expect(text.components(separatedBy: "HTTP/1.1 ").count == 2, "nothing follows it: \(text)")
        await setup.stop()
    }

    @Test func usersComeInWithTheirPasswords() async throws {
        let hash = try PasswordHash(of: Array("secret".utf8), iterations: 10_000)
        let setup = try await Setup(
            "- {name: proxy, bind: \"127.0.0.1:0\", protocol: http-proxy, users: users}",
            files: ["users": "ann:\(hash)\n"]
        )
        let denied = try await setup.curl("-o", "/dev/null", "-w", "%{http_code}", "http://web.mesh/")
        #expect(denied.standardOutput == "407")
        let wrong = try await setup.curl("-U", "ann:wrong", "-o", "/dev/null", "-w", "%{http_code}", "http://web.mesh/")
        #expect(wrong.standardOutput == "407")
        for more in ["-s", "-p"] {
            let right = try await setup.curl(more, "-U", "ann:secret", "http://web.mesh/")
            #expect(right.standardOutput == "hello", "\(right.standardError)")
        }
        #expect(try await setup.exchange(Self.get("/proxy.pac", Self.last)).text.hasPrefix("HTTP/1.1 401 "))
        let shown = try await setup.curl("-U", "ann:secret", "http://web.mesh/head")
        #expect(!shown.standardOutput.lowercased().contains("authorization"))
        await setup.stop()
    }

    private static func authorization(_ login: String) -> String {
        "Proxy-Authorization: Basic \(Data(login.utf8).base64EncodedString())\r\n"
    }

    /// None at all is no better than a wrong one, or a connection would be for whoever asks.
    @Test func whoShowsNoPasswordIsSentAway() async throws {
        let hash = try PasswordHash(of: Array("secret".utf8), iterations: 10_000)
        let setup = try await Setup(
            "- {name: proxy, bind: \"127.0.0.1:0\", protocol: http-proxy, users: users}",
            files: ["users": "ann:\(hash)\n"]
        )
        let wrong = ["", "Proxy-Authorization: Basic !\r\n", "", Self.authorization("ann:secret")]
        let (text, _) = try await setup.exchange(wrong.map { Self.get("http://web.mesh/", $0) }.joined())
        #expect(text.components(separatedBy: "HTTP/1.1 407 ").count == 4, "\(text)")
        #expect(text.components(separatedBy: "HTTP/1.1 ").count == 4, "nothing follows them: \(text)")
        // A right one in between is a new beginning.
        let (first, _) = try await setup.exchange(
            ["", Self.authorization("ann:secret"), "", "", Self.authorization("ann:secret") + Self.last]
                .map { Self.get("http://web.mesh/", $0) }.joined()
        )
        #expect(first.hasSuffix("hello") && first.components(separatedBy: "HTTP/1.1 200 ").count == 3, "\(first)")
        await setup.stop()
    }

    /// Who may is asked for each request, also of a connection that was there before.
    @Test func aReloadHoldsForTheNextRequest() async throws {
        let setup = try await Setup()
        let without = try String(contentsOfFile: setup.nodes.clientFile, encoding: .utf8)
        let with = without.replacingOccurrences(
            of: "protocol: http-proxy}",
            with: "protocol: http-proxy, users: users}"
        )
        let client = try RawClient(port: setup.proxy)
        func status(_ login: String? = nil) -> String {
            client.send(Self.get("http://web.mesh/", login.map(Self.authorization) ?? ""))
            return String(client.response().prefix(12))
        }
        func users(_ password: String) throws -> String {
            "ann:\(try PasswordHash(of: Array(password.utf8), iterations: 10_000))\n"
        }
        #expect(status() == "HTTP/1.1 200")
        _ = try setup.nodes.directory.write("users", try users("secret"))
        _ = try setup.nodes.directory.write("near.yaml", with)
        try await setup.nodes.near.reload()
        #expect(status() == "HTTP/1.1 407")
        #expect(status("ann:secret") == "HTTP/1.1 200")
        _ = try setup.nodes.directory.write("users", try users("other"))
        await setup.nodes.near.reloadIfChanged()
        #expect(status("ann:secret") == "HTTP/1.1 407")
        #expect(status("ann:other") == "HTTP/1.1 200")
        client.reset()
        await setup.stop()
    }

    /// Methods and paths are asked about for each request, also of a connection whose stream to the server is open.
    @Test func policyReadsEachRequest() async throws {
        let policy = """
            policy:
            - {name: heads, action: DENY, rules: [{to: [{ports: [8080], paths: [/head*]}]}, {to: [{hosts: [web.mesh], methods: [PUT]}]}]}
            - {name: watch, action: AUDIT, rules: [{to: [{paths: [/body]}]}]}
            """
        let setup = try await Setup(more: policy)
        let client = try RawClient(port: setup.proxy)
        func status(_ method: String, _ url: String) -> String {
            client.send("\(method) \(url) HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            return String(client.response().prefix(12))
        }
        #expect(status("GET", "http://web.mesh/head") == "HTTP/1.1 200")
        #expect(status("GET", "http://other.mesh:8080/") == "HTTP/1.1 200")
        #expect(status("GET", "http://other.mesh:8080/head") == "HTTP/1.1 403")
        client.reset()
        let second = try RawClient(port: setup.proxy)
        func again(_ method: String, _ url: String) -> String {
            second.send("\(method) \(url) HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            return String(second.response().prefix(12))
        }
        #expect(again("GET", "http://other.mesh:8080/body") == "HTTP/1.1 200")
        #expect(again("GET", "http://other.mesh:8080/%68ead?x") == "HTTP/1.1 403")
        #expect(again("GET", "http://other.mesh:8080/x/..%2Fhead") == "HTTP/1.1 403", "it may mean /head")
        #expect(again("GET", "http://web.mesh/x/..%2Fhead") == "HTTP/1.1 200")
        #expect(again("PUT", "http://web.mesh/body") == "HTTP/1.1 403")
        #expect(setup.nodes.nearLog.lines.contains { $0.contains("audited by policy 'watch', rule 1 (AUDIT)") })
        #expect(
            setup.nodes.nearLog.lines.contains {
                $0.contains("no stream to other.mesh:8080") && $0.contains("denied by policy 'heads', rule 1 (DENY)")
            }
        )
        second.reset()
        // Nobody reads what goes through a tunnel.
        let (tunnel, _) = try await setup.exchange("CONNECT other.mesh:8080 HTTP/1.1\r\nHost: x\r\n\r\n")
        #expect(tunnel.hasPrefix("HTTP/1.1 403 "))
        await setup.stop()
    }

    /// A reload decides about the request that is open, not about the one that its stream was opened for.
    @Test func aReloadDecidesAboutTheRequestThatIsOpen() async throws {
        let setup = try await Setup(more: "policy: [{name: w, action: AUDIT, rules: [{to: [{paths: [/none]}]}]}]")
        let text = try String(contentsOfFile: setup.nodes.clientFile, encoding: .utf8)
        func deny(_ path: String) async throws {
            let rule = "policy: [{name: d, action: DENY, rules: [{to: [{paths: [\(path)]}]}]}]"
            let start = try #require(text.range(of: "policy: "))
            _ = try setup.nodes.directory.write("near.yaml", text[..<start.lowerBound] + rule + "\n")
            try await setup.nodes.near.reload()
        }
        let client = try RawClient(port: setup.proxy)
        client.send(Self.get("http://web.mesh/body"))
        #expect(client.response().hasPrefix("HTTP/1.1 200"))
        client.send(Self.get("http://web.mesh/"))
        #expect(client.response().hasPrefix("HTTP/1.1 200"))
        try await deny("/body")
        client.send(Self.get("http://web.mesh/"))
        #expect(client.response().hasPrefix("HTTP/1.1 200"), "the stream was opened for /body, and has gone on to /")
        let cut = { setup.nodes.nearLog.lines.contains { $0.contains("policy changed: 1 streams cut") } }
        #expect(!cut())
        try await deny("/")
        #expect(cut())
        client.send(Self.get("http://web.mesh/"))
        #expect(client.response().hasPrefix("HTTP/1.1 403"))
        client.reset()
        await setup.stop()
    }

    /// Without its users a listener that asked for a password is for nobody.
    @Test func usersThatAreTakenAwayTakeTheirConnectionsWithThem() async throws {
        let hash = try PasswordHash(of: Array("secret".utf8), iterations: 10_000)
        let setup = try await Setup(
            "- {name: proxy, bind: \"127.0.0.1:0\", protocol: http-proxy, users: users}",
            files: ["users": "ann:\(hash)\n"]
        )
        let client = try RawClient(port: setup.proxy)
        let request = Self.get("http://web.mesh/", Self.authorization("ann:secret"))
        client.send(request)
        #expect(client.response().hasSuffix("hello"))
        let text = try String(contentsOfFile: setup.nodes.clientFile, encoding: .utf8)
        _ = try setup.nodes.directory.write("near.yaml", text.replacingOccurrences(of: ", users: users", with: ""))
        try await setup.nodes.near.reload()
        client.send(request)
        #expect(client.response().isEmpty)
        client.reset()
        await setup.stop()
    }

    /// Nor does a connection lose its users with the name of its listener, or come to need none.
    @Test func usersOutlastTheNameOfTheirListener() async throws {
        let hash = try PasswordHash(of: Array("secret".utf8), iterations: 10_000)
        let setup = try await Setup(
            "- {name: proxy, bind: \"127.0.0.1:0\", protocol: http-proxy, users: users}",
            files: ["users": "ann:\(hash)\n"]
        )
        let client = try RawClient(port: setup.proxy)
        let text = try String(contentsOfFile: setup.nodes.clientFile, encoding: .utf8)
        for name in ["proxy", "other"] {
            let renamed = text.replacingOccurrences(of: "{name: proxy,", with: "{name: \(name),")
            _ = try setup.nodes.directory.write("near.yaml", renamed)
            try await setup.nodes.near.reload()
            client.send(Self.get("http://web.mesh/"))
            #expect(client.response().hasPrefix("HTTP/1.1 407"), "\(name)")
            client.send(Self.get("http://web.mesh/", Self.authorization("ann:secret")))
            #expect(client.response().hasSuffix("hello"), "\(name)")
        }
        client.reset()
        await setup.stop()
    }

    /// The browser's own question, asked of the script by a JavaScript engine.
    @Test func theScriptForBrowsersSendsMeshNamesHere() async throws {
        let setup = try await Setup()
        let (answer, _) = try await setup.exchange(
            "GET /proxy.pac HTTP/1.1\r\nHost: 127.0.0.1:\(setup.proxy)\r\nConnection: close\r\n\r\n"
        )
        #expect(answer.contains("Content-Type: application/x-ns-proxy-autoconfig\r\n"))
        // For browsers, and not for the pages in them.
        #expect(answer.contains("X-Content-Type-Options: nosniff\r\n"))
        #expect(answer.contains("Cross-Origin-Resource-Policy: same-origin\r\n"))
        let script = try #require(answer.components(separatedBy: "\r\n\r\n").last)
        let questions = """

            for (const [url, host] of [["http://web.mesh/", "web.mesh"], ["http://WEB.mesh:80/x", "WEB.mesh"],
                ["https://web.mesh/", "web.mesh"], ["http://other.mesh:8080/", "other.mesh"], ["http://a.example/", "a.example"],
                ["http://u:p@web.mesh/", "web.mesh"], ["ws://web.mesh/", "web.mesh"]])
              console.log(FindProxyForURL(url, host));
            console.log(typeof rules);
            """
        let node = try await ChildProcess.run("node", ["-e", script + questions])
        let here = "PROXY 127.0.0.1:\(setup.proxy)"
        #expect(
            node.standardOutput.split(separator: "\n").map(String.init)
                == [here, here, "DIRECT", here, "DIRECT", here, here, "undefined"],
            "\(node.standardError)"
        )
        // A page of the web whose name was given this address.
        let rebound = try await setup.exchange(
            "GET /proxy.pac HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
        )
        #expect(rebound.text.hasPrefix("HTTP/1.1 404 "))
        #expect(try await setup.exchange(Self.get("/", Self.last)).text.hasPrefix("HTTP/1.1 404 "))
        await setup.stop()
    }

    /// Downloads that are given up, silent clients and floods of requests leave nothing behind.
    @Test func abortedClientsLeaveNoStream() async throws {
        let setup = try await Setup()
        for index in 0..<100 {
            let client = try RawClient(port: setup.proxy)
            client.send(Self.get("http://web.mesh/big"))
            if index % 2 == 0 { _ = client.receive(1000) }
            client.reset()
        }
        // Who only closes his browser while there is nothing to say.
        for path in ["/events", "/more"] {
            let client = try RawClient(port: setup.proxy)
            client.send(Self.get("http://web.mesh\(path)"))
            _ = client.receive(1 << 16)
            client.end()
        }
        var silent: [TCPConversation] = []
        for _ in 0..<100 { silent.append(try await TCPConversation(port: setup.proxy)) }
        let flood = String(repeating: Self.get("/nothing"), count: 3000) + Self.get("http://web.mesh/", Self.last)
        let (text, _) = try await setup.exchange(flood)
        #expect(text.components(separatedBy: "HTTP/1.1 404 ").count == 3001 || text.hasPrefix("HTTP/1.1 404 "))
        #expect(try await setup.exchange(Self.get("http://web.mesh/", Self.last)).text.hasSuffix("hello"))
        try await eventually("no stream is left") { await setup.nodes.near.liveStreams() == 0 }
        silent = []
        await setup.stop()
    }
}

/// A socket that can be reset.
final class RawClient {
    private let descriptor: Int32

    init(port: UInt16) throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        try #require(result == 0)
    }

    func send(_ text: String) {
        _ = Array(text.utf8).withUnsafeBytes { Glibc.send(descriptor, $0.baseAddress, $0.count, 0) }
    }

    func receive(_ count: Int) -> Int {
        var bytes = [UInt8](repeating: 0, count: count)
        return recv(descriptor, &bytes, count, 0)
    }

    /// The next response, as long as its Content-Length says; empty where the connection has ended.
    func response() -> String {
        var bytes: [UInt8] = []
        var missing: Int?
        while missing != 0 {
            // Up to the end of the head in single bytes: what follows is not this response's.
            var more = [UInt8](repeating: 0, count: min(missing ?? 1, 1 << 16))
            let count = recv(descriptor, &more, more.count, 0)
            guard count > 0 else { break }
            bytes += more.prefix(count)
            if let rest = missing {
                missing = rest - count
            } else if bytes.suffix(4).elementsEqual([13, 10, 13, 10]) {
                let head = String(decoding: bytes, as: UTF8.self)
                let length = head.components(separatedBy: "Content-Length: ").last ?? ""
                missing = Int(length.prefix(while: \.isNumber)) ?? 0
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    func end() { close(descriptor) }

    func reset() {
        var linger = linger(l_onoff: 1, l_linger: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &linger, socklen_t(MemoryLayout<linger>.size))
        close(descriptor)
    }
}
