import Foundation
import TestPeers
import Testing

/// Nodes and Envoy in one path: as the other end of a tunnel, and as the proxy before a gateway and behind it.
@Suite(.timeLimit(.minutes(10))) struct EnvoyGatewayTests {
    private static func curl(_ arguments: String...) async throws -> ChildProcess.Output {
        try await ChildProcess.run("curl", ["-sS", "--max-time", "60", "--noproxy", "*"] + arguments)
    }

    /// How many of these WebSockets were opened, carried a message each way, and were closed in order.
    private static func webSockets(_ url: String, _ count: Int) async throws -> [String] {
        let clients = try ChildProcess(
            TestTools.python,
            [TestTools.repository + "/Tests/Peers/http1/websockets_many.py", url, "\(count)"],
            keepsInputOpen: true
        )
        try clients.write("\n")
        try await clients.standardOutput.line(containing: "echoed")
        clients.closeInput()
        try await clients.exit()
        return try await clients.standardOutput.complete().split(separator: "\n").map(String.init)
    }

    private static func isWhole(_ url: String) async throws -> Bool {
        let output = try await curl("-o", "/dev/null", "-w", "%{http_code} %{size_download}", url)
        return output.standardOutput == "200 \(64 << 20)"
    }

    @Test func envoyIsAClientOfANode() async throws {
        let site = try await Site()
        let directory = TemporaryDirectory()
        let certificates = TestCertificates.shared
        let file = try directory.write(
            "server.yaml",
            NodeFile.server(identity: certificates.path(.server), ports: [site.port])
        )
        let (node, ports) = try await IngressNodes.start(file)
        for (port, isAllowed) in [(site.port, true), (site.socketsPort, false)] {
            let connect = FreePort.next()
            let envoy = try await Envoy.start(
                "originator",
                [
                    "SERVER": "\(try #require(ports["hbone"]))", "CONNECT": "\(connect)", "POST": "\(FreePort.next())",
                    "AUTHORITY": "127.0.0.1:\(port)", "CREDENTIAL": certificates.path(.client),
                ]
            )
            let output = try await Self.curl("http://127.0.0.1:\(connect)/hello")
            #expect(output.standardOutput == (isAllowed ? "hello" : ""), "\(output)")
            #expect(output.succeeded == isAllowed)
            if isAllowed { #expect(try await Self.isWhole("http://127.0.0.1:\(connect)/big")) }
            await envoy.stop()
        }
        _ = try await node.standardError.line { $0.contains("denied") && $0.contains("ns/prod/sa/client") }
        await node.stop()
        await site.process.stop()
    }

    /// More WebSockets than Envoy allows streams on a connection.
    @Test func envoyIsTheServerBehindTheFronts() async throws {
        let site = try await Site()
        let directory = TemporaryDirectory()
        let certificates = TestCertificates.shared
        let tunnel = FreePort.next()
        let envoy = try await Envoy.start(
            "terminator",
            ["PORT": "\(tunnel)", "CREDENTIAL": certificates.path(.server), "REQUESTS": "0", "STREAMS": "100"]
        )
        func endpoint(_ name: String, _ port: UInt16) -> String {
            "- {match: \"\(name)\", address: \"127.0.0.1:\(port)\", hbone: \"127.0.0.1:\(tunnel)\", identity: \"spiffe://mesh.example/ns/prod/sa/server\"}"
        }
        let file = try directory.write(
            "client.yaml",
            """
            identity: \(certificates.path(.client))
            listeners:
            - {name: tcp, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "site.mesh:80"}
            - {name: socks, bind: "127.0.0.1:0", protocol: socks5}
            - {name: proxy, bind: "127.0.0.1:0", protocol: http-proxy}
            - {name: web, bind: "127.0.0.1:0", protocol: http, routes: [{path: "/socket", to: "sockets.mesh:80"}, {to: "site.mesh:80"}]}
            endpoints:
            \(endpoint("site.mesh:80", site.port))
            \(endpoint("sockets.mesh:80", site.socketsPort))
            \(endpoint("closed.mesh:80", FreePort.next()))
            \(IngressNodes.everybody)
            """
        )
        let (node, ports) = try await IngressNodes.start(file)
        func here(_ name: String) throws -> String { "127.0.0.1:\(try #require(ports[name]))" }
        for (way, url) in [
            (["--noproxy", "*"], "http://\(try here("tcp"))"), (["--noproxy", "*"], "http://\(try here("web"))"),
            (["--noproxy", "", "-x", try here("proxy")], "http://site.mesh"),
            (["--noproxy", "", "--socks5-hostname", try here("socks")], "http://site.mesh"),
        ] {
            let output = try await ChildProcess.run(
                "curl",
                ["-sS", "--max-time", "60"] + way + [
                    "\(url)/hello", "-o", "/dev/null", "-w", " %{size_download}", "\(url)/big",
                ]
            )
            #expect(
                output.standardOutput == "hello 5 \(64 << 20)" || output.standardOutput.hasSuffix("\(64 << 20)"),
                "\(url): \(output)"
            )
        }
        #expect(
            try await Self.webSockets("ws://\(try here("web"))/socket", 150) == [
                "open 150", "echoed 150", "closed 150",
            ]
        )
        let refused = try await ChildProcess.run(
            "curl",
            ["-sS", "--noproxy", "", "-x", try here("proxy"), "-i", "http://closed.mesh/"]
        )
        #expect(refused.standardOutput.hasPrefix("HTTP/1.1 503 "), "\(refused)")
        await node.stop()
        await envoy.stop()
        await site.process.stop()
    }

    @Test func envoyStandsBeforeAGatewayAndBehindIt() async throws {
        let site = try await Site()
        let (web, balanced) = (FreePort.next(), FreePort.next())
        let (line, front, behind) = (FreePort.next(), FreePort.next(), FreePort.next())
        let envoy = try await Envoy.start(
            "gateway",
            [
                "LINE": "\(line)", "FRONT": "\(front)", "BEHIND": "\(behind)", "WEB": "\(web)",
                "BALANCED": "\(balanced)", "SITE": "\(site.port)",
            ]
        )
        let routes =
            "routes: [{path: \"/socket\", to: \"sockets.mesh:80\"}, {path: \"/missing\", to: \"none.mesh:80\"}, {to: \"site.mesh:80\"}]"
        let nodes = try await IngressNodes(
            """
            - {name: web, bind: "127.0.0.1:\(web)", protocol: http, \(routes)}
            - {name: balanced, bind: "127.0.0.1:\(balanced)", protocol: http, proxyProtocol: accept, trustedProxies: ["127.0.0.1"], \(routes)}
            """,
            names: ["site.mesh:80": behind, "sockets.mesh:80": site.socketsPort, "none.mesh:80": FreePort.next()]
        )
        for entry in [line, front] {
            let url = "http://127.0.0.1:\(entry)"
            let head = try await Self.curl("--interface", "127.0.0.2", "-H", "X-Forwarded-For: 9.9.9.9", "\(url)/head")
            let fields = head.standardOutput.lowercased().split(separator: "\r\n")
            // Behind the header of the PROXY protocol the client is who it is; a reverse proxy is a client, whose
            // claims do not count.
            let client = entry == line ? "127.0.0.2" : "127.0.0.1"
            #expect(
                fields.contains { $0 == "x-forwarded-for: \(client)" || $0.hasPrefix("x-forwarded-for: \(client),") },
                "\(head)"
            )
            #expect(!head.standardOutput.contains("9.9.9.9"))
            #expect(try await Self.isWhole("\(url)/big"))
            let upload = Array(repeating: UInt8(65), count: 5_000_000)
            let sent = try await ChildProcess.run(
                "curl",
                ["-sS", "--noproxy", "*", "-H", "Transfer-Encoding: chunked", "--data-binary", "@-", "\(url)/upload"],
                input: upload
            )
            #expect(sent.standardOutput == "5000000", "\(sent)")
            #expect(
                try await Self.webSockets("ws://127.0.0.1:\(entry)/socket", 100) == [
                    "open 100", "echoed 100", "closed 100",
                ]
            )
            let missing = try await Self.curl("-o", "/dev/null", "-w", "%{http_code}", "\(url)/missing")
            #expect(missing.standardOutput == "503")
        }
        await nodes.stop()
        await envoy.stop()
        await site.process.stop()
    }
}
