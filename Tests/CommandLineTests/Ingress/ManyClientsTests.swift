import Foundation
import TestPeers
import Testing

/// A gateway under clients by the thousand: those that stay, those that go in the middle, and tools that load it.
@Suite(.timeLimit(.minutes(10))) struct ManyClientsTests {
    /// A site behind two nodes, and what can be seen of them from outside.
    final class Setup: Sendable {
        let site: Site
        let nodes: IngressNodes
        private let metrics = FreePort.next()

        init(_ more: String = "") async throws {
            site = try await Site()
            nodes = try await IngressNodes(
                """
                - name: web
                  bind: "127.0.0.1:0"
                  protocol: http
                  routes:
                    - {path: "/socket", to: "sockets.mesh:80"}
                    - {to: "site.mesh:80"}
                  \(more)
                - name: secure
                  bind: "127.0.0.1:0"
                  protocol: https
                  credentials: ["DIR/web"]
                  routes: [{to: "site.mesh:80"}]
                """,
                names: ["site.mesh:80": site.port, "sockets.mesh:80": site.socketsPort],
                certificates: ["web": ["www.example.org"]],
                policy: IngressNodes.everybody + "\nmetrics: \"127.0.0.1:\(metrics)\""
            )
        }

        var url: String { get throws { "127.0.0.1:\(try nodes.port("web"))" } }

        /// The sum over all labels.
        func metric(_ name: String) async throws -> Double {
            let output = try await ChildProcess.run(
                "curl",
                ["-sS", "--noproxy", "*", "--max-time", "30", "http://127.0.0.1:\(metrics)/metrics"]
            )
            let lines = output.standardOutput.split(separator: "\n").filter {
                $0.hasPrefix(name + " ") || $0.hasPrefix(name + "{")
            }
            return lines.compactMap { $0.split(separator: " ").last.flatMap { Double($0) } }.reduce(0, +)
        }

        func descriptors() throws -> [Int] {
            try [nodes.ingress, nodes.server].map {
                try FileManager.default.contentsOfDirectory(atPath: "/proc/\($0.pid)/fd").count
            }
        }

        /// Of both nodes, in MiB.
        func memory() throws -> [Int] { try [nodes.ingress, nodes.server].map { try $0.residentMemory() >> 20 } }

        /// One request of another client.
        func isServed() async throws -> Bool {
            let output = try await ChildProcess.run("curl", ["-sS", "--noproxy", "*", "http://\(try url)/hello"])
            return output.standardOutput == "hello"
        }

        func flood(
            _ what: String,
            _ count: Int,
            _ says: String,
            within limit: Duration = .seconds(200)
        ) async throws
            -> ChildProcess
        {
            let arguments = [what, "\(try nodes.port("web"))", "\(count)", Array(says.utf8).hex]
            return try ChildProcess(
                TestTools.python,
                [TestTools.repository + "/Tests/Peers/network/flood.py"] + arguments,
                keepsInputOpen: true
            )
        }

        func stop() async {
            await nodes.stop()
            await site.process.stop()
        }
    }

    @Test func aThousandWebSocketsOutliveAHundredReloads() async throws {
        let setup = try await Setup()
        let clients = try ChildProcess(
            TestTools.python,
            [
                TestTools.repository + "/Tests/Peers/http1/websockets_many.py", "ws://\(try setup.url)/socket",
                "1000",
            ],
            keepsInputOpen: true
        )
        try await clients.standardOutput.line(containing: "open 1000", within: .seconds(60))
        let original = try String(contentsOfFile: setup.nodes.file, encoding: .utf8)
        let (other, third) = (FreePort.next(), FreePort.next())
        /// Listeners that come, go and change, routes and endpoints that are others.
        func variant(_ round: Int) -> String {
            var text = original
            if round % 2 == 1 {
                text = text.replacingOccurrences(
                    of: "\nendpoints:",
                    with:
                        "\n- {name: new, bind: \"127.0.0.1:\(round % 4 == 1 ? other : third)\", protocol: socks5}\nendpoints:"
                )
            }
            if round % 3 == 1 {
                text = text.replacingOccurrences(
                    of: "{path: \"/socket\", to: \"sockets.mesh:80\"}",
                    with: "{path: \"/moved\", to: \"sockets.mesh:80\"}"
                )
            }
            return text
        }
        var (echoed, early) = (0, [0, 0])
        for round in 1...100 {
            try setup.nodes.reload { _ in variant(round) }
            try await eventually("reload \(round)") {
                let lines = setup.nodes.ingress.standardError.lines
                return lines.count { $0.contains("reloaded") } >= round
            }
            if round % 20 == 0 {
                echoed += 1
                try clients.write("\n")
                try await eventually("echo \(echoed)", within: .seconds(60)) {
                    clients.standardOutput.lines.count { $0.hasPrefix("echoed ") } == echoed
                }
            }
            if round == 20 { early = try setup.memory() }
        }
        let lines = clients.standardOutput.lines.filter { !$0.isEmpty }
        #expect(lines == ["open 1000"] + Array(repeating: "echoed 1000", count: 5))
        let late = try setup.memory()
        #expect(late[0] - early[0] < 24 && late[1] - early[1] < 24, "MiB: \(early), \(late)")
        clients.closeInput()
        try await clients.exit(within: .seconds(60))
        let output = try await clients.standardOutput.complete()
        #expect(output.contains("closed 1000\n"), "\(output.suffix(200))")
        try await eventually("no stream is left") { try await setup.metric("bootstrap_streams") == 0 }
        await setup.stop()
    }

    @Test func tenThousandAbortedDownloadsLeaveNothing() async throws {
        let setup = try await Setup()
        #expect(try await setup.isServed())
        // Of a server that sends as fast as it can, and of one that has said a part.
        func abort(_ count: Int, of path: String) async throws {
            let clients = try await setup.flood("abort", count, "GET \(path) HTTP/1.1\r\nHost: a.example.org\r\n\r\n")
            try await clients.exit(within: .seconds(240))
            let output = try await clients.standardOutput.complete()
            #expect(output == "aborted \(count)\n", "\(clients.standardError.text)")
            try await eventually("no stream is left", within: .seconds(60)) {
                try await setup.metric("bootstrap_streams") == 0
            }
        }
        try await abort(1000, of: "/big")
        try await abort(1000, of: "/stalled")
        let (descriptors, memory) = (try setup.descriptors(), try setup.memory())
        try await abort(1000, of: "/big")
        try await abort(7000, of: "/stalled")
        // The backend notices some of them later than the nodes, which have let go of it already.
        try await eventually("nor is a socket") {
            try zip(setup.descriptors(), descriptors).allSatisfy { $0 <= $1 + 2 }
        }
        let after = try setup.memory()
        #expect(after[0] - memory[0] < 24 && after[1] - memory[1] < 24, "MiB: \(memory), \(after)")
        #expect(try await setup.isServed())
        await setup.stop()
    }

    /// Who asks and waits is answered when there is something to say.
    @Test func longPollsWait() async throws {
        let setup = try await Setup()
        let polls = try (0..<5).map { _ in
            try ChildProcess("curl", ["-sS", "--noproxy", "*", "--max-time", "60", "http://\(try setup.url)/late"])
        }
        try await eventually("all have asked") {
            setup.site.process.standardOutput.lines.count { $0 == "asked" } == 5
        }
        #expect(polls.allSatisfy { $0.isRunning && $0.standardOutput.text.isEmpty })
        #expect(try await setup.isServed())
        try setup.site.process.write("\n\n\n\n\n")
        for poll in polls {
            #expect(try await poll.exit() == .exited(0))
            #expect(try await poll.standardOutput.complete() == "at last")
        }
        await setup.stop()
    }

    @Test(
        .enabled(if: ["wrk", "h2load"].allSatisfy(TestTools.isInstalled), "wrk or h2load is not installed"),
        arguments: ["web", "secure"]
    )
    func toolsThatLoadItSeeNoError(_ listener: String) async throws {
        let setup = try await Setup()
        let url = "\(listener == "web" ? "http" : "https")://127.0.0.1:\(try setup.nodes.port(listener))"
        for path in ["hello", "data/100"] {
            let wrk = try await ChildProcess.run("wrk", ["-t", "2", "-c", "64", "-d", "2s", "\(url)/\(path)"])
            #expect(wrk.succeeded && wrk.standardOutput.contains("Requests/sec:"), "\(wrk)")
            #expect(!wrk.standardOutput.contains("Socket errors") && !wrk.standardOutput.contains("Non-2xx"), "\(wrk)")
            let load = try await ChildProcess.run(
                "h2load",
                ["--h1", "-c", "32", "-m", "4", "-n", "5000", "\(url)/\(path)"]
            )
            #expect(
                load.standardOutput.contains(
                    "5000 total, 5000 started, 5000 done, 5000 succeeded, 0 failed, 0 errored, 0 timeout"
                ),
                "\(load)"
            )
        }
        try await eventually("no stream is left") { try await setup.metric("bootstrap_streams") == 0 }
        await setup.stop()
    }
}

extension ChildProcess {
    /// Bytes of memory that it has in use.
    func residentMemory() throws -> Int {
        let text = try String(contentsOfFile: "/proc/\(pid)/statm", encoding: .utf8)
        return (Int(text.split(separator: " ")[1]) ?? 0) * Int(getpagesize())
    }
}

extension [UInt8] {
    /// As the programs of `Tests/Peers` take bytes.
    var hex: String { map { String(format: "%02x", $0) }.joined() }
}
