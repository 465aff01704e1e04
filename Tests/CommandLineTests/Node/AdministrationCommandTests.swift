import Foundation
import TestPeers
import Testing

/// Metrics and administration of `bootstrap node`.
@Suite(.timeLimit(.minutes(10))) struct AdministrationCommandTests {
    private static func configuration(backend: UInt16, entry: UInt16 = 0, _ more: String) -> String {
        """
        identity: \(TestCertificates.shared.path(.client))
        default: direct
        listeners:
        - {name: in, bind: "127.0.0.1:\(entry)", protocol: tcp, forwardTo: "127.0.0.1:\(backend)"}
        \(more)
        """
    }

    private static func curl(_ arguments: String...) async throws -> String {
        let output = try await ChildProcess.run("curl", ["-sS", "--max-time", "30"] + arguments)
        #expect(output.succeeded, "\(output.standardError)")
        return output.standardOutput
    }

    @Test func whatIsInEffectIsPrinted() async throws {
        let directory = TemporaryDirectory()
        let file = try directory.write("node.yaml", Self.configuration(backend: 1, "connections: {perPeer: 3}"))
        let output = try await ChildProcess.run(TestTools.bootstrap, ["node", "--config", file, "--print-config"])
        #expect(output.succeeded, "\(output.standardError)")
        let object = try JSONSerialization.jsonObject(with: Data(output.standardOutput.utf8)) as? [String: Any]
        let connections = object?["connections"] as? [String: Any]
        #expect(connections?["perPeer"] as? Int == 3 && connections?["keepAlive"] as? String == "10s")
        // What was printed can be checked, and printed again.
        let printed = try directory.write("printed.yaml", output.standardOutput)
        let again = try await ChildProcess.run(TestTools.bootstrap, ["node", "--config", printed, "--print-config"])
        #expect(again.standardOutput == output.standardOutput, "\(again.standardError)")
        let broken = try directory.write("broken.yaml", "nonsense")
        let refused = try await ChildProcess.run(TestTools.bootstrap, ["node", "--config", broken, "--print-config"])
        #expect(refused.status == .exited(2) && refused.standardOutput.isEmpty)
    }

    @Test func theLogLevelChangesAndTheNodeEnds() async throws {
        let backend = try EchoServer()
        let directory = TemporaryDirectory()
        let admin = FreePort.next()
        let file = try directory.write(
            "node.yaml",
            Self.configuration(backend: backend.port, "admin: \"127.0.0.1:\(admin)\"")
        )
        let node = try ChildProcess(TestTools.bootstrap, ["node", "--config", file, "--drain", "1h"])
        let ready = try await node.standardOutput.line(containing: "ready in")
        let port = try #require(ready.split(separator: ":").last.flatMap { UInt16($0) })
        let url = "http://localhost:\(admin)"
        let order = ["-X", "POST", "-H", "x-bootstrap: 1"]
        #expect(try await Self.curl(order[0], order[1], "\(url)/loglevel?level=info").contains("needs the field"))
        #expect(
            try await Self.curl(order[0], order[1], order[2], order[3], "\(url)/loglevel?level=info")
                == "the log level is info\n"
        )
        #expect(!node.standardError.text.contains(" info "))
        let talk = try await TCPConversation(port: port)
        _ = try await talk.echo([1])
        #expect(
            try await Self.curl(order[0], order[1], order[2], order[3], "\(url)/drain?within=100ms") == "draining\n"
        )
        // It was cut in the end, which is told at the new level.
        #expect(try await node.exit() == .exited(0))
        #expect(node.standardError.text.contains(" info "), "\(node.standardError.text)")
    }

    /// Whoever scrapes a node sees nothing of its replacement but other figures. A Unix socket cannot be handed over,
    /// so it stands alone here.
    @Test(arguments: [false, true]) func anotherProcessTakesOverItsServers(unix: Bool) async throws {
        let backend = try EchoServer()
        let directory = TemporaryDirectory()
        let runtime = try directory.makeDirectory("run", permissions: 0o700)
        let (metrics, admin, entry) = (FreePort.next(), FreePort.next(), FreePort.next())
        let socket = directory.path("admin.sock")
        let file = try directory.write(
            "node.yaml",
            Self.configuration(
                backend: backend.port,
                entry: entry,
                unix
                    ? "admin: \(socket)"
                    : "metrics: \"127.0.0.1:\(metrics)\"\nadmin: \"127.0.0.1:\(admin)\""
            )
        )
        let arguments = ["node", "--config", file, "--runtime", runtime]
        let first = try ChildProcess(TestTools.bootstrap, arguments)
        _ = try await first.standardOutput.line(containing: "ready in")
        try await eventually("it can be taken over") {
            FileManager.default.fileExists(atPath: runtime)
                && ((try? FileManager.default.contentsOfDirectory(atPath: runtime))?.isEmpty == false)
        }
        let talk = try await TCPConversation(port: entry)
        _ = try await talk.echo([1])
        func get(_ path: String, at port: UInt16) async throws -> String {
            unix
                ? try await Self.curl("--unix-socket", socket, "http://localhost\(path)")
                : try await Self.curl("http://127.0.0.1:\(port)\(path)")
        }
        func started() async throws -> String? {
            try await get("/metrics", at: metrics).split(separator: "\n")
                .first { $0.hasPrefix("bootstrap_streams{") }.map(String.init)
        }
        #expect(try await started()?.hasSuffix(" 1") == true)

        let second = try ChildProcess(TestTools.bootstrap, arguments)
        _ = try await second.standardOutput.line(containing: "ready in")
        _ = try await first.standardError.line(containing: "has taken over the listeners")
        // The stream is the first one's still.
        #expect(try await started() == nil)
        let page = try await get("/streams", at: admin)
        #expect(page == "{\"total\":0,\"streams\":[]}\n")
        _ = try await talk.end()
        #expect(try await first.exit() == .exited(0))
        #expect(try await get("/readyz", at: metrics) == "ready\n")
        #expect(!FileManager.default.fileExists(atPath: socket + ".new"))
        _ = await second.stop()
    }
}
