import Foundation
import TestPeers
import Testing

/// gRPC through a gateway: grpcio on both sides, and a route that says that the workload speaks HTTP/2.
@Suite(.timeLimit(.minutes(10))) struct GRPCIngressTests {
    final class Setup: Sendable {
        let server: ChildProcess
        let nodes: IngressNodes

        static let routes = "routes: [{host: \"grpc.example.org\", to: \"grpc.mesh:80\", h2: true}]"

        init(_ more: String = "") async throws {
            server = try ChildProcess(
                TestTools.python,
                [TestTools.repository + "/Tests/Peers/grpc/server.py"],
                keepsInputOpen: true
            )
            let backend = try #require(UInt16(try await server.standardOutput.line { (UInt16($0) ?? 0) > 1023 }))
            nodes = try await IngressNodes(
                """
                - name: web
                  bind: "127.0.0.1:0"
                  protocol: http
                  \(Self.routes)
                - name: secure
                  bind: "127.0.0.1:0"
                  protocol: https
                  credentials: ["DIR/web"]
                  \(Self.routes)
                """,
                names: ["grpc.mesh:80": backend],
                certificates: ["web": ["grpc.example.org"]],
                loops: 1,
                drain: "60s"
            )
        }

        func client(_ name: String = "web", _ arguments: String..., keepsInputOpen: Bool = false) throws -> ChildProcess
        {
            let script = TestTools.repository + "/Tests/Peers/grpc/client.py"
            return try ChildProcess(
                TestTools.python,
                [script, "\(try nodes.port(name))"] + arguments,
                keepsInputOpen: keepsInputOpen
            )
        }

        func stop() async {
            await nodes.stop()
            await server.stop()
        }
    }

    /// Unary and streaming, both ways and at once; metadata, trailers, failures, deadlines.
    @Test func everyKindOfCallPasses() async throws {
        let setup = try await Setup()
        for client in [
            try setup.client("web", "calls"),
            try setup.client("secure", "grpc.example.org", setup.nodes.directory.path("web/cert-chain.pem")),
        ] {
            do {
                _ = try await client.standardOutput.line { $0 == "ok" }
            } catch {
                Issue.record("\(error): \(client.standardOutput.text)\(client.standardError.text)")
            }
            // A call that its client gave up ends at the server.
            _ = try await setup.server.standardOutput.line { $0 == "cancelled" }
            await client.stop()
        }
        await setup.stop()
    }

    /// Calls that are open go on through a reload and to their end in a drain.
    @Test func openCallsOutlastReloadAndDrain() async throws {
        let setup = try await Setup()
        let client = try setup.client("web", "hold", keepsInputOpen: true)
        _ = try await client.standardOutput.line { $0 == "open" }
        try setup.nodes.reload { $0 + "\n# changed\n" }
        _ = try await setup.nodes.ingress.standardError.line(containing: "reloaded")
        setup.nodes.ingress.signal(SIGTERM)
        let url = "http://127.0.0.1:\(try setup.nodes.port("web"))/"
        try await eventually("nobody new is let in") {
            try await ChildProcess.run("curl", ["-sS", "--noproxy", "*", url]).status == .exited(7)
        }
        try client.write("go on\n")
        do {
            _ = try await client.standardOutput.line { $0 == "ok" }
        } catch {
            Issue.record("\(error): \(client.standardOutput.text)\(client.standardError.text)")
        }
        await client.stop()
        await setup.stop()
    }

    /// A workload that goes away is 503, or a reset where the answer had begun; its successor is found.
    @Test func aLostSessionIsReplaced() async throws {
        let setup = try await Setup()
        let client = try setup.client("web", "hold", keepsInputOpen: true)
        _ = try await client.standardOutput.line { $0 == "open" }
        await setup.server.stop()
        let url = "http://127.0.0.1:\(try setup.nodes.port("web"))/test.Echo/Unary"
        for version in ["--http2-prior-knowledge", "--http1.1"] {
            let output = try await ChildProcess.run(
                "curl",
                ["-sS", "--noproxy", "*", version, "-H", "Host: grpc.example.org", "-o", "/dev/null"]
                    + ["-w", "%{http_code}", url]
            )
            #expect(output.standardOutput == "503", "\(version): \(output)")
        }
        await client.stop()
        await setup.stop()
    }

    /// A client of HTTP/1.1 before a workload that speaks HTTP/2: the gateway translates, with trailers behind chunks.
    @Test func clientsOfHTTP1ReachHTTP2() async throws {
        let setup = try await Setup()
        // A message of gRPC: not compressed, five bytes.
        let message = setup.nodes.directory.path("message")
        try Data([0, 0, 0, 0, 5] + Array("hello".utf8)).write(to: URL(fileURLWithPath: message))
        let url = "http://127.0.0.1:\(try setup.nodes.port("web"))/test.Echo/Unary"
        let once = [
            "--http1.1", "-H", "Host: grpc.example.org", "-H", "Content-Type: application/grpc", "-H", "TE: trailers",
            "--data-binary", "@\(message)", url,
        ]
        // Twice on one connection.
        let output = try await ChildProcess.run(
            "curl",
            ["-sS", "-i", "--noproxy", "*"] + once + ["--next", "-sS", "-i"] + once
        )
        #expect(output.succeeded, "\(output)")
        let text = output.standardOutput
        #expect(text.components(separatedBy: "HTTP/1.1 200 ").count == 3, "\(text)")
        #expect(text.components(separatedBy: "olleh").count == 3, "\(text)")
        #expect(text.lowercased().components(separatedBy: "grpc-status: 0").count == 3, "trailers: \(text)")
        await setup.stop()
    }
}
