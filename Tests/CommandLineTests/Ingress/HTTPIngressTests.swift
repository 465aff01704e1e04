import Foundation
import TestPeers
import Testing

/// A gateway for HTTP as the world meets it: curl, raw sockets, TLS of Python and of curl, and two node processes
/// before a server that shows what it gets.
@Suite(.timeLimit(.minutes(10))) struct HTTPIngressTests {
    /// The server, the nodes, and the ports of the listeners.
    final class Setup: Sendable {
        let server: ChildProcess
        let nodes: IngressNodes

        static let routes = """
            routes:
              - {host: "api.example.org", path: "/v1/", to: "closed.mesh:80"}
              - {host: "api.example.org", path: "/far", to: "nobody.mesh:80"}
              - {host: "*.example.org", to: "web.mesh:80"}
              - {path: "/silent", to: "silent.mesh:80"}
              - {host: "denied.example.net", to: "denied.mesh:80"}
            """

        static let everybodyButOne = """
            policy:
            - name: world
              action: ALLOW
              rules:
              - to: [{hosts: ["web.mesh", "closed.mesh", "silent.mesh", "nobody.mesh"], ports: [80]}]
            """

        init(
            _ more: String = "",
            others: String = "",
            silent: UInt16 = 1,
            loops: Int = 2,
            drain: String = "5s"
        )
            async throws
        {
            server = try ChildProcess(
                TestTools.python,
                [TestTools.repository + "/Tests/Peers/http1/backend.py"],
                keepsInputOpen: true
            )
            let backend = try #require(UInt16(try await server.standardOutput.line { (UInt16($0) ?? 0) > 1023 }))
            nodes = try await IngressNodes(
                """
                - name: web
                  bind: "127.0.0.1:0"
                  protocol: http
                  \(Self.routes)
                  \(more)
                \(others)
                """,
                names: [
                    "web.mesh:80": backend, "closed.mesh:80": FreePort.next(), "denied.mesh:80": backend,
                    "silent.mesh:80": silent,
                ],
                certificates: ["web": ["*.example.org"]],
                policy: Self.everybodyButOne,
                loops: loops,
                drain: drain
            )
        }

        /// What the gateway answers to these bytes, up to its end.
        func exchange(_ text: String, staysOpen: Bool = true) async throws -> (text: String, TCPClient.Ending) {
            let (bytes, ending) = try await TCPClient.exchange(
                port: nodes.port("web"),
                sending: Array(text.utf8),
                staysOpen: staysOpen
            )
            return (String(decoding: bytes, as: UTF8.self), ending)
        }

        func curl(_ arguments: String...) async throws -> ChildProcess.Output {
            try await ChildProcess.run("curl", ["-sS", "--max-time", "60", "--noproxy", "*"] + arguments)
        }

        func stop() async {
            await nodes.stop()
            await server.stop()
        }
    }

    private static let last = "Connection: close\r\n"

    private static func get(_ path: String, _ fields: String = "", host: String = "www.example.org") -> String {
        "GET \(path) HTTP/1.1\r\nHost: \(host)\r\n\(fields)\r\n"
    }

    @Test func requestsGoWhereTheirRouteSays() async throws {
        let setup = try await Setup()
        for (host, path, status, reason) in [
            ("www.example.org", "/", 200, ""), ("API.example.org:8080", "/v2", 200, ""),
            ("api.example.org", "/v1/x", 503, "connection_refused"),
            ("api.example.org", "/far", 503, "destination_unavailable"),
            ("api.example.org", "/%66ar/x", 503, "destination_unavailable"),
            ("example.com", "/", 404, "destination_not_found"),
            ("denied.example.net", "/", 403, "http_request_denied"),
        ] {
            let (text, ending) = try await setup.exchange(Self.get(path, Self.last, host: host))
            #expect(text.hasPrefix("HTTP/1.1 \(status) "), "\(host)\(path): \(text)")
            #expect(ending == .endOfStream)
            guard status != 200 else { continue }
            #expect(text.contains("Proxy-Status: bootstrap; error=\(reason)"), "\(host)\(path): \(text)")
            #expect(!text.contains("127.0.0.1") && !text.contains("mesh"), "the world reads no address: \(text)")
        }
        // The log has the reason for whoever runs the node.
        _ = try await setup.nodes.ingress.standardError.line { $0.contains("no stream to denied.mesh:80") }
        await setup.stop()
    }

    /// Several routes, bodies of every kind and pages of the gateway, one after the other on one connection.
    @Test func severalRequestsShareAConnection() async throws {
        let setup = try await Setup()
        let body = "POST /body HTTP/1.1\r\nHost: a.example.org\r\nContent-Length: 5\r\n\r\nfirst"
        let chunks =
            "POST /body HTTP/1.1\r\nHost: b.example.org\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nsec\r\n3;x=y\r\nond\r\n0\r\n\r\n"
        let (text, ending) = try await setup.exchange(
            body + chunks + Self.get("/none", host: "example.com") + Self.get("/v1", host: "api.example.org")
                + Self.get("/chunked") + Self.get("/until-end") + "HEAD / HTTP/1.1\r\nHost: www.example.org\r\n\r\n"
                + Self.get("/once") + Self.get("/", Self.last)
        )
        #expect(ending == .endOfStream)
        var rest = text[...]
        for part in [
            "\r\n\r\nfirst", "\r\n\r\nsecond", "HTTP/1.1 404 ", "HTTP/1.1 503 ", "4\r\none,\r\n",
            "5\r\nthree\r\n0\r\nX-Trailer: 1\r\n\r\n", "until the end\r\n0\r\n\r\n", "Content-Length: 5",
            "\r\n\r\nonce",
            "\r\n\r\nhello",
        ] {
            let range = rest.range(of: part)
            #expect(range != nil, "\(part) is not in \(rest)")
            if let range { rest = rest[range.upperBound...] }
        }
        #expect(rest.isEmpty)
        await setup.stop()
    }

    @Test func whatOthersClaimIsTakenAwayAndSetAnew() async throws {
        let setup = try await Setup()
        let claims =
            "X-Forwarded-Client-Cert: By=evil\r\nForwarded: for=evil\r\nX-Forwarded-For: evil\r\nX_Forwarded_Host: evil\r\n"
            + "baggage: k=evil\r\nx-tun: evil:1\r\nProxy-Authorization: evil\r\nX-Kept: 1\r\nKeep-Alive: 5\r\n"
        let (text, _) = try await setup.exchange(Self.get("/head", claims + Self.last))
        let parts = text.components(separatedBy: "\r\n\r\n")
        #expect(
            parts.dropFirst().first == """
                GET /head HTTP/1.1\r\nHost: www.example.org\r\nX-Kept: 1\r\nX-Forwarded-For: 127.0.0.1\r
                X-Forwarded-Proto: http\r\nX-Forwarded-Host: www.example.org\r
                Forwarded: for=127.0.0.1;host="www.example.org";proto=http\r\nVia: 1.1 bootstrap
                """
        )
        #expect(!parts[0].lowercased().contains("x-secret") && !parts[0].lowercased().contains("keep-alive"))
        await setup.stop()
    }

    @Test func curlGetsItsFilesBothWays() async throws {
        let setup = try await Setup()
        let url = "http://127.0.0.1:\(try setup.nodes.port("web"))"
        let (big, upload) = (setup.nodes.directory.path("big"), setup.nodes.directory.path("upload"))
        let got = try await setup.curl("-H", "Host: a.example.org", "-o", big, "\(url)/big")
        #expect(got.succeeded, "\(got.standardError)")
        let size = try FileManager.default.attributesOfItem(atPath: big)[.size] as? Int
        #expect(size == 8 << 20)
        // With a length and 100-continue, and in chunks.
        for arguments in [["--data-binary", "@\(big)"], ["-T", big, "-X", "POST"], ["-T", "-", "-X", "POST"]] {
            let output = try await ChildProcess.run(
                "curl",
                ["-sS", "--max-time", "60", "-H", "Host: a.example.org", "-H", "Expect: 100-continue", "-o", upload]
                    + ["-w", "%header{x-length} %{http_code}"] + arguments + ["\(url)/continue"],
                input: arguments.contains("-") ? [UInt8](repeating: 0x78, count: 8 << 20) : nil
            )
            #expect(output.standardOutput == "\(8 << 20) 200", "\(arguments): \(output)")
            #expect(FileManager.default.contentsEqual(atPath: big, andPath: upload))
        }
        await setup.stop()
    }

    @Test func webSocketsPass() async throws {
        let setup = try await Setup()
        let upgrade = Self.get("/ws", "Connection: Upgrade\r\nUpgrade: websocket\r\n")
        let (text, ending) = try await setup.exchange(upgrade + "early and late", staysOpen: false)
        #expect(text.hasPrefix("HTTP/1.1 101 Switching Protocols\r\n"))
        #expect(text.hasSuffix("\r\n\r\nhiearly and late"))
        #expect(ending == .endOfStream)
        await setup.stop()
    }

    /// What comes is passed on at once; meanwhile the limit of requests holds, and with its end it is free again.
    @Test func eventsAreNotHeldBack() async throws {
        let setup = try await Setup("limits: {requests: 1}", loops: 1)
        let url = "http://127.0.0.1:\(try setup.nodes.port("web"))"
        let events = try ChildProcess("curl", ["-sN", "--noproxy", "*", "-H", "Host: a.example.org", "\(url)/events"])
        for count in 1...3 {
            try await eventually("event \(count) comes") {
                if count == 1 { try setup.server.write("x") }
                return events.standardOutput.text.components(separatedBy: "data: 1\n\n").count > count
            }
            try setup.server.write("x")
        }
        let (busy, _) = try await setup.exchange(Self.get("/", Self.last))
        #expect(busy.hasPrefix("HTTP/1.1 503 ") && busy.contains("Retry-After: 1"), "\(busy)")
        await events.stop()
        try await eventually("there is room") {
            try await setup.exchange(Self.get("/", Self.last)).text.hasSuffix("hello")
        }
        await setup.stop()
    }

    /// What two readers could take for two things is refused, and nothing of it, nor behind it, reaches the server.
    @Test func ambiguousRequestsEndTheConnection() async throws {
        let setup = try await Setup("limits: {body: 1KiB}")
        let host = "Host: a.example.org\r\n"
        let many = String(repeating: "X: 1\r\n", count: 101)
        let cases: [(String, Int)] = [
            ("POST / HTTP/1.1\r\n\(host)Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\n\(host)Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
            ("POST / HTTP/1.1\r\n\(host)Content-Length: +5\r\n\r\nhello", 400),
            ("POST / HTTP/1.1\r\n\(host)Content-Length: 5, 5\r\n\r\nhello", 400),
            ("POST / HTTP/1.1\r\n\(host)Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 501),
            ("POST / HTTP/1.1\r\n\(host)Transfer-Encoding:\u{b}chunked\r\n\r\n0\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\n\(host)Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
            ("POST / HTTP/1.0\r\n\(host)Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n\(host)\(host)\r\n", 400), ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\nHost: a.example.org\n\n", 400), ("GET / HTTP/1.1\r\n\(host)X: a\rb\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n\(host)X: a\r\n b\r\n\r\n", 400), ("GET / HTTP/1.1\r\n X: a\r\n\(host)\r\n", 400),
            ("GET  / HTTP/1.1\r\n\(host)\r\n", 400), ("GET /a b HTTP/1.1\r\n\(host)\r\n", 400),
            ("\r\nGET / HTTP/1.1\r\n\(host)\r\n", 400), ("GET / HTTP/2.0\r\n\(host)\r\n", 505),
            ("GET http://b.example.org/ HTTP/1.1\r\n\(host)\r\n", 400),
            ("GET /%2e%2e/v1 HTTP/1.1\r\n\(host)\r\n", 400), ("GET /a/..;/b HTTP/1.1\r\n\(host)\r\n", 400),
            ("GET /a%2Fb HTTP/1.1\r\n\(host)\r\n", 400), ("GET /%00 HTTP/1.1\r\n\(host)\r\n", 400),
            ("GET /a\\b HTTP/1.1\r\n\(host)\r\n", 400), ("CONNECT a.example.org:80 HTTP/1.1\r\n\(host)\r\n", 501),
            ("POST /body HTTP/1.1\r\n\(host)Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", 400),
            ("POST /body HTTP/1.1\r\n\(host)Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX0\r\n\r\n", 400),
            ("POST /body HTTP/1.1\r\n\(host)Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n\(host)X: " + String(repeating: "a", count: 40_000), 431),
            ("GET /" + String(repeating: "a", count: 9_000), 414), ("GET / HTTP/1.1\r\n\(host)\(many)\r\n", 431),
            ("POST /body HTTP/1.1\r\n\(host)Content-Length: 1025\r\n\r\n", 413),
            (
                "POST /body HTTP/1.1\r\n\(host)Transfer-Encoding: chunked\r\n\r\n401\r\n"
                    + String(repeating: "a", count: 1025) + "\r\n0\r\n\r\n", 413
            ),
            ("GET / HTTP/1.1\r\n\(host)" + String(repeating: "Via: 1.1 x\r\n", count: 10) + "\r\n", 508),
        ]
        for (request, status) in cases {
            let (text, ending) = try await setup.exchange(request + Self.get("/head"))
            #expect(text.hasPrefix("HTTP/1.1 \(status) "), "\(request.prefix(200)): \(text)")
            #expect(text.contains("Connection: close") && ending == .endOfStream, "\(request.prefix(200)): \(ending)")
            #expect(text.components(separatedBy: "HTTP/1.1 ").count == 2, "nothing follows it: \(text)")
        }
        await setup.stop()
    }

    @Test func nobodyIsWaitedForForEver() async throws {
        let silent = try ScriptedServer(greeting: [], refrain: [])
        let setup = try await Setup("timeouts: {head: 2s, idle: 2s, upstream: 2s}", silent: silent.port)
        let (slow, ending) = try await setup.exchange("GET / HTTP/1.1\r\nHost: a.ex")
        #expect(slow.hasPrefix("HTTP/1.1 408 ") && ending == .endOfStream)
        let (nothing, end) = try await setup.exchange("")
        #expect(nothing.isEmpty && end == .endOfStream)
        let (owing, _) = try await setup.exchange(
            "POST /body HTTP/1.1\r\nHost: a.example.org\r\nContent-Length: 5\r\n\r\nfi"
        )
        #expect(owing.hasPrefix("HTTP/1.1 408 "), "\(owing)")
        let (late, _) = try await setup.exchange(Self.get("/silent", Self.last, host: "x"))
        #expect(late.hasPrefix("HTTP/1.1 504 ") && late.contains("error=http_response_timeout"), "\(late)")
        // Idle, and then closed, without a word.
        let (idle, idleEnd) = try await setup.exchange(Self.get("/"))
        #expect(idle.hasSuffix("hello") && idleEnd == .endOfStream)
        await setup.stop()
        withExtendedLifetime(silent) {}
    }

    @Test func httpsIsServedAndAskedFor() async throws {
        let certificates = TestCertificates.shared
        let setup = try await Setup(
            others: """
                - name: plain
                  bind: "127.0.0.1:0"
                  protocol: http
                  redirect: "https:8443"
                - name: secure
                  bind: "127.0.0.1:0"
                  protocol: https
                  credentials: ["DIR/web"]
                  clients: optional
                  hsts: 600
                  \(Setup.routes)
                """
        )
        let plain = try setup.nodes.port("plain")
        for (method, status) in [("GET", 301), ("POST", 308)] {
            let output = try await setup.curl(
                "-X",
                method,
                "-o",
                "/dev/null",
                "-w",
                "%{http_code} %{redirect_url}",
                "-H",
                "Host: www.example.org:80",
                "http://127.0.0.1:\(plain)/a?b=c"
            )
            #expect(output.standardOutput == "\(status) https://www.example.org:8443/a?b=c")
        }
        let port = try setup.nodes.port("secure")
        let base = [
            "--resolve", "www.example.org:\(port):127.0.0.1", "--cacert",
            setup.nodes.directory.path("web/cert-chain.pem"),
        ]
        func curl(_ more: String...) async throws -> ChildProcess.Output {
            try await ChildProcess.run("curl", ["-sS", "--noproxy", "*", "--max-time", "60"] + base + more)
        }
        let url = "https://www.example.org:\(port)"
        let answer = try await curl("-i", "--http1.1", "\(url)/head")
        #expect(answer.succeeded, "\(answer.standardError)")
        #expect(answer.standardOutput.contains("Strict-Transport-Security: max-age=600"))
        #expect(answer.standardOutput.contains("X-Forwarded-Proto: https"))
        #expect(!answer.standardOutput.contains("X-Forwarded-Client-Cert"))
        let known = certificates.path(.client)
        let mesh = try await curl(
            "--http1.1",
            "--cert",
            "\(known)/cert-chain.pem",
            "--key",
            "\(known)/key.pem",
            "-H",
            "X-Forwarded-Client-Cert: By=evil",
            "\(url)/head"
        )
        #expect(
            mesh.standardOutput.contains(
                "X-Forwarded-Client-Cert: By=spiffe://mesh.example/ns/prod/sa/client;URI=spiffe://mesh.example/ns/prod/sa/client\r\n"
            ),
            "\(mesh)"
        )
        #expect(!mesh.standardOutput.contains("evil"))
        // Both versions are offered (RFC 7301), with bodies both ways.
        let both = try await curl("--http2", "-w", " %{http_version}", "--data-binary", "hello", "\(url)/body")
        #expect(both.standardOutput == "hello 2", "\(both)")
        let older = try await curl("--http1.1", "-w", " %{http_version}", "--data-binary", "hello", "\(url)/body")
        #expect(older.standardOutput == "hello 1.1", "\(older)")
        let missing = try await curl("-i", "--http1.1", "-H", "Host: example.com", "\(url)/")
        #expect(missing.standardOutput.hasPrefix("HTTP/1.1 404 "))
        #expect(missing.standardOutput.contains("Strict-Transport-Security: max-age=600"), "pages have it, too")
        await setup.stop()
    }

    /// A route is another one from the reload on, and a connection that is there stays; a node that ends does not wait
    /// for clients that ask for nothing.
    @Test func routesAreTakenOverWithoutARestart() async throws {
        let setup = try await Setup()
        #expect(
            try await setup.exchange(Self.get("/", Self.last, host: "new.example.com")).text.hasPrefix("HTTP/1.1 404 ")
        )
        let events = try ChildProcess(
            "curl",
            [
                "-sN", "--noproxy", "*", "-H", "Host: a.example.org",
                "http://127.0.0.1:\(try setup.nodes.port("web"))/events",
            ]
        )
        try await eventually("the stream is open") {
            try setup.server.write("x")
            return events.standardOutput.text.contains("data: 1")
        }
        try setup.nodes.reload { $0.replacingOccurrences(of: "\"*.example.org\"", with: "\"*.example.com\"") }
        try await eventually("the new route holds") {
            try await setup.exchange(Self.get("/", Self.last, host: "new.example.com")).text.hasSuffix("hello")
        }
        // Each event loop takes it over in its turn.
        try await eventually("the old one does not, on any event loop") {
            try await setup.exchange(Self.get("/", Self.last)).text.hasPrefix("HTTP/1.1 404 ")
        }
        let before = events.standardOutput.text.count
        try await eventually("the old stream goes on") {
            try setup.server.write("x")
            return events.standardOutput.text.count > before
        }
        #expect(!setup.nodes.ingress.standardError.text.contains("with a restart only"))
        await events.stop()
        let idle = try await TCPConversation(port: try setup.nodes.port("web"))
        setup.nodes.ingress.signal(SIGTERM)
        #expect(try await setup.nodes.ingress.exit() == .exited(0))
        withExtendedLifetime(idle) {}
        await setup.stop()
    }
}
