import Foundation
import TestPeers
import Testing

/// A gateway as clients of HTTP/2 meet it: curl, h2load, and frames written by hand, before a server of HTTP/1.1 that
/// shows what it gets.
@Suite(.timeLimit(.minutes(10))) struct HTTP2IngressTests {
    private typealias Setup = HTTPIngressTests.Setup

    private static func client(_ setup: Setup, _ arguments: String...) throws -> [String] {
        [TestTools.repository + "/Tests/Peers/h2/ingress.py", "\(try setup.nodes.port("web"))"] + arguments
    }

    private static func run(_ setup: Setup, _ arguments: String...) async throws -> String {
        let script = TestTools.repository + "/Tests/Peers/h2/ingress.py"
        let output = try await ChildProcess.run(
            TestTools.python,
            [script, "\(try setup.nodes.port("web"))"] + arguments
        )
        #expect(output.succeeded, "\(output.standardError)")
        return output.standardOutput.trimmingCharacters(in: .newlines)
    }

    /// Without TLS by prior knowledge; every kind of answer on one connection.
    @Test func requestsGoWhereTheirRouteSays() async throws {
        let setup = try await Setup()
        let url = "http://127.0.0.1:\(try setup.nodes.port("web"))"
        for (host, path, status, reason) in [
            ("www.example.org", "/", 200, ""), ("API.example.org:8080", "/v2", 200, ""),
            ("api.example.org", "/v1/x", 503, "connection_refused"),
            ("api.example.org", "/far", 503, "destination_unavailable"),
            ("example.com", "/", 404, "destination_not_found"),
            ("denied.example.net", "/", 403, "http_request_denied"),
            ("www.example.org", "/bad", 502, "http_protocol_error"),
        ] {
            let output = try await setup.curl(
                "--http2-prior-knowledge",
                "-H",
                "Host: \(host)",
                "-w",
                " %{http_version} %{http_code} %header{proxy-status}",
                url + path
            )
            let text = output.standardOutput
            #expect(text.contains(" 2 \(status) "), "\(host)\(path): \(output)")
            if status == 200 { #expect(text.hasPrefix("hello ")) }
            #expect(reason.isEmpty || text.contains("bootstrap; error=\(reason)"), "\(host)\(path): \(text)")
            #expect(!text.contains("127.0.0.1") && !text.contains("mesh"), "the world reads no address: \(text)")
        }
        for (arguments, expected) in [
            (["\(url)/chunked"], "one,two,three"), (["\(url)/until-end"], "until the end"), (["\(url)/once"], "once"),
            (["-I", "-o", "/dev/null", "-w", "%header{content-length}", "\(url)/"], "5"),
            (["-d", "a=b", "\(url)/body"], "a=b"), (["-X", "PUT", "-d", "", "\(url)/body"], ""),
        ] {
            let output = try await ChildProcess.run(
                "curl",
                ["-sS", "--max-time", "60", "--noproxy", "*", "--http2-prior-knowledge", "-H", "Host: a.example.org"]
                    + arguments
            )
            #expect(output.standardOutput == expected, "\(arguments): \(output)")
        }
        // Less than it says is no end.
        let cut = try await setup.curl("--http2-prior-knowledge", "-H", "Host: a.example.org", "\(url)/cut")
        #expect(!cut.succeeded && cut.standardOutput.isEmpty || cut.standardOutput == "half" && !cut.succeeded)
        await setup.stop()
    }

    @Test func whatOthersClaimIsTakenAwayAndSetAnew() async throws {
        let setup = try await Setup()
        let claims = [
            "X-Forwarded-Client-Cert: By=evil", "Forwarded: for=evil", "X-Forwarded-For: evil",
            "X_Forwarded_Host: evil", "baggage: k=evil", "x-tun: evil:1", "Proxy-Authorization: evil", "X-Kept: 1",
            "Cookie: a=1", "Cookie: b=2",
        ]
        let output = try await ChildProcess.run(
            "curl",
            ["-sS", "--noproxy", "*", "--http2-prior-knowledge", "-H", "Host: www.example.org", "-A", "curl", "-i"]
                + claims.flatMap { ["-H", $0] } + ["http://127.0.0.1:\(try setup.nodes.port("web"))/head"]
        )
        let parts = output.standardOutput.components(separatedBy: "\r\n\r\n")
        #expect(parts[0].contains("x-seen: 1") && !parts[0].contains("x-secret") && !parts[0].contains("keep-alive"))
        #expect(parts[0].contains("via: 1.1 bootstrap"))
        let seen = parts.dropFirst().joined()
        for line in [
            "GET /head HTTP/1.1", "Host: www.example.org", "x-kept: 1", "X-Forwarded-For: 127.0.0.1",
            "X-Forwarded-Proto: http", "X-Forwarded-Host: www.example.org", "Via: 2.0 bootstrap",
        ] {
            #expect(seen.contains(line), "\(line): \(seen)")
        }
        #expect(seen.contains("cookie: a=1; b=2"), "one field, as HTTP/1.1 has it: \(seen)")
        #expect(!seen.contains("evil"), "\(seen)")
        await setup.stop()
    }

    /// 8 MiB each way, with and without a length, and with 100-continue.
    @Test func largeBodiesPassBothWays() async throws {
        let setup = try await Setup()
        let url = "http://127.0.0.1:\(try setup.nodes.port("web"))"
        let (big, upload) = (setup.nodes.directory.path("big"), setup.nodes.directory.path("upload"))
        let got = try await setup.curl("--http2-prior-knowledge", "-H", "Host: a.example.org", "-o", big, "\(url)/big")
        #expect(got.succeeded, "\(got.standardError)")
        let size = try FileManager.default.attributesOfItem(atPath: big)[.size] as? Int
        #expect(size == 8 << 20)
        for arguments in [["--data-binary", "@\(big)"], ["-T", "-", "-X", "POST"]] {
            let output = try await ChildProcess.run(
                "curl",
                ["-sS", "--max-time", "60", "--http2-prior-knowledge", "-H", "Host: a.example.org", "-o", upload]
                    + ["-H", "Expect: 100-continue", "-w", "%header{x-length} %{http_code}"] + arguments
                    + ["\(url)/continue"],
                input: arguments.contains("-") ? [UInt8](repeating: 0x78, count: 8 << 20) : nil
            )
            #expect(output.standardOutput == "\(8 << 20) 200", "\(arguments): \(output)")
            #expect(FileManager.default.contentsEqual(atPath: big, andPath: upload))
        }
        // A client that does not take them holds nobody up but itself.
        let held = try await Self.run(setup, "window", "100000")
        #expect(held == "held\nend \(8 << 20)")
        await setup.stop()
    }

    /// By ALPN, with both versions of HTTP on one listener.
    @Test func httpsOffersBoth() async throws {
        let setup = try await Setup(
            others: """
                - name: secure
                  bind: "127.0.0.1:0"
                  protocol: https
                  credentials: ["DIR/web"]
                  hsts: 600
                  \(Setup.routes)
                """
        )
        let port = try setup.nodes.port("secure")
        let base = [
            "-sS", "--noproxy", "*", "--resolve", "www.example.org:\(port):127.0.0.1", "--cacert",
            setup.nodes.directory.path("web/cert-chain.pem"), "-w",
            " %{http_version} %header{strict-transport-security}",
        ]
        for (flag, version) in [("--http2", "2"), ("--http1.1", "1.1"), ("--no-alpn", "1.1")] {
            let output = try await ChildProcess.run("curl", base + [flag, "https://www.example.org:\(port)/"])
            #expect(output.standardOutput == "hello \(version) max-age=600", "\(flag): \(output)")
        }
        let seen = try await ChildProcess.run("curl", base + ["--http2", "https://www.example.org:\(port)/head"])
        #expect(seen.standardOutput.contains("X-Forwarded-Proto: https"), "\(seen)")
        await setup.stop()
    }

    /// Thousands of requests on a few connections; the server's are kept and used again.
    @Test func manyRequestsShareAConnection() async throws {
        let setup = try await Setup()
        let output = try await ChildProcess.run(
            "h2load",
            ["-n", "3000", "-c", "3", "-m", "20", "-H", ":authority: a.example.org"]
                + ["http://127.0.0.1:\(try setup.nodes.port("web"))/"]
        )
        #expect(output.standardOutput.contains("3000 succeeded, 0 failed, 0 errored, 0 timeout"), "\(output)")
        #expect(output.standardOutput.contains("status codes: 3000 2xx"), "\(output)")
        await setup.stop()
    }

    /// What is no request of HTTP/2, or could become another one of HTTP/1.1, reaches no server.
    @Test func malformedRequestsAreRefused() async throws {
        let setup = try await Setup()
        let lines = try await Self.run(setup, "malformed").split(separator: "\n").map(String.init)
        let passing = ["and a request: 200"]
        #expect(lines.count > 50, "\(lines)")
        for line in lines where !passing.contains(line) {
            let outcome = line.components(separatedBy: ": ").last ?? ""
            let isRefusal =
                ["400", "431", "501", "508", "RST_STREAM(1)", "closed"].contains(outcome)
                || outcome.hasPrefix("GOAWAY(")
            #expect(isRefusal && outcome != "GOAWAY(0)", "\(line)")
        }
        #expect(lines.contains(passing[0]), "the connection has suffered nothing: \(lines)")
        await setup.stop()
    }

    /// Work for nothing ends the connection of whoever asks for it, and is no matter of others.
    @Test(arguments: ["reset", "ping", "settings", "empty", "window", "continuation", "malformed", "bomb", "priority"])
    func floodsAreCutOff(_ name: String) async throws {
        let silent = try ScriptedServer(greeting: [], refrain: [])
        let setup = try await Setup(silent: silent.port, loops: 1)
        let ending = try await Self.run(setup, "flood", name)
        switch name {
        // RFC 9113 §5.3.2: ignored, as all priorities are.
        case "priority": #expect(ending == "200" || ending == "GOAWAY(11)", "\(ending)")
        default: #expect(ending == "GOAWAY(11)" || ending == "closed", "\(name): \(ending)")
        }
        let (text, _) = try await setup.exchange("GET / HTTP/1.1\r\nHost: a.example.org\r\nConnection: close\r\n\r\n")
        #expect(text.hasSuffix("hello"), "another client: \(text)")
        await setup.stop()
        withExtendedLifetime(silent) {}
    }

    /// What comes is passed on at once; a drain lets it go on, and takes nothing new.
    @Test func aDrainWaitsForWhatIsOpen() async throws {
        let setup = try await Setup(drain: "60s")
        let client = try ChildProcess(TestTools.python, try Self.client(setup, "drain"))
        _ = try await client.standardOutput.line { $0 == "open" }
        try setup.server.write("x")
        _ = try await client.standardOutput.line { $0.hasPrefix("data: 1") }
        setup.nodes.ingress.signal(SIGTERM)
        // First a word that refuses nothing, after which a request is still answered; then the last word.
        _ = try await client.standardOutput.line { $0 == "goaway \(Int32.max) 0" }
        _ = try await client.standardOutput.line { $0 == "200" }
        _ = try await client.standardOutput.line { $0.hasPrefix("goaway ") && !$0.contains("\(Int32.max)") }
        let before = client.standardOutput.text.components(separatedBy: "data: 1").count
        try await eventually("events go on") {
            try setup.server.write("x")
            return client.standardOutput.text.components(separatedBy: "data: 1").count > before
        }
        await client.stop()
        await setup.stop()
    }

    /// A reload that changes routes goes on with the same connection; one that takes the listener's limits away from
    /// under it has the client come again; policy cuts what it no longer allows.
    @Test func aReloadReachesOpenConnections() async throws {
        let setup = try await Setup()
        let client = try ChildProcess(TestTools.python, try Self.client(setup, "drain"))
        _ = try await client.standardOutput.line { $0 == "open" }
        try setup.nodes.reload { $0.replacing("{path: \"/silent\"", with: "{path: \"/other\"") }
        _ = try await setup.nodes.ingress.standardError.line(containing: "reloaded")
        try setup.server.write("x")
        _ = try await client.standardOutput.line { $0.hasPrefix("data: 1") }
        #expect(!client.standardOutput.text.contains("goaway"))
        try setup.nodes.reload {
            $0.replacing("protocol: http\n", with: "protocol: http\n  limits: {body: 5KiB}\n")
        }
        _ = try await client.standardOutput.line { $0.hasPrefix("goaway ") && !$0.contains("\(Int32.max)") }
        try setup.nodes.reload { $0.replacing("\"web.mesh\", ", with: "") }
        _ = try await client.standardOutput.line { $0.hasPrefix("reset ") }
        _ = try await client.standardOutput.line { $0 == "closed" }
        await client.stop()
        await setup.stop()
    }

    @Test func nobodyIsWaitedForForEver() async throws {
        let silent = try ScriptedServer(greeting: [], refrain: [])
        let setup = try await Setup("timeouts: {head: 2s, idle: 2s, upstream: 2s}", silent: silent.port)
        #expect(try await Self.run(setup, "slow") == "closed")
        let url = "http://127.0.0.1:\(try setup.nodes.port("web"))"
        let late = try await setup.curl(
            "--http2-prior-knowledge",
            "-w",
            "%{http_code} %header{proxy-status}",
            "-o",
            "/dev/null",
            "\(url)/silent"
        )
        #expect(late.standardOutput.hasPrefix("504 bootstrap; error=http_response_timeout"), "\(late)")
        await setup.stop()
        withExtendedLifetime(silent) {}
    }

    @Test func aResetOfOneRequestLeavesTheOthersAlone() async throws {
        let setup = try await Setup()
        #expect(try await Self.run(setup, "reset") == "200")
        await setup.stop()
    }

    @Test func limitsHold() async throws {
        let setup = try await Setup("limits: {body: 1KiB}")
        let url = "http://127.0.0.1:\(try setup.nodes.port("web"))/body"
        for arguments in [["--data-binary", "@-"], ["-T", "-", "-X", "POST"]] {
            let output = try await ChildProcess.run(
                "curl",
                ["-sS", "--max-time", "60", "--http2-prior-knowledge", "-H", "Host: a.example.org", "-o", "/dev/null"]
                    + ["-w", "%{http_code}"] + arguments + [url],
                input: [UInt8](repeating: 0x78, count: 100_000)
            )
            #expect(output.standardOutput == "413", "\(arguments): \(output)")
        }
        await setup.stop()
    }

    /// Each request is a stream of its own in the access log.
    @Test func requestsAreRecorded() async throws {
        let setup = try await Setup()
        try setup.nodes.reload { "accessLog: {file: \(setup.nodes.directory.path("access.json"))}\n" + $0 }
        let url = "http://127.0.0.1:\(try setup.nodes.port("web"))"
        try await eventually("requests have lines") {
            // curl 7.88 fails the second request of a connection that it speaks HTTP/2 on by prior knowledge.
            _ = try await ChildProcess.run(
                "nghttp",
                ["-n", "-H", ":authority: a.example.org", "\(url)/one", "\(url)/two"]
            )
            let log = (try? setup.nodes.directory.read("access.json")) ?? ""
            return log.contains("/one") && log.contains("/two")
        }
        await setup.stop()
    }
}
