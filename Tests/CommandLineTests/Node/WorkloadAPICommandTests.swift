import Foundation
import TestPeers
import Testing

/// `bootstrap node` whose identity a SPIFFE agent gives; the agent is a stand-in (grpcio).
@Suite(.timeLimit(.minutes(10))) struct WorkloadAPICommandTests {
    private static let id = "spiffe://mesh.example/ns/prod/sa/node"
    private static let one = "{\"svids\": [{\"id\": \"\(id)\"}]}"

    private static func write(_ agent: WorkloadAPIServer, admin: UInt16 = 0, _ more: String = "") throws -> String {
        try agent.directory.write(
            "node.yaml",
            """
            identity: {workloadAPI: "unix://\(agent.socket)"\(more)}
            default: direct
            listeners:
            - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "127.0.0.1:1"}
            admin: "127.0.0.1:\(admin)"
            """
        )
    }

    private static func serial(_ admin: UInt16) async throws -> String {
        let output = try await ChildProcess.run(
            "curl",
            ["-sS", "--max-time", "30", "http://127.0.0.1:\(admin)/certificates"]
        )
        let page = try JSONSerialization.jsonObject(with: Data(output.standardOutput.utf8)) as? [String: Any]
        let chain = try #require(page?["chain"] as? [[String: Any]], "\(output)")
        return try #require(chain[0]["serial"] as? String)
    }

    @Test func aNodeWaitsForItsIdentityAndTakesTheNext() async throws {
        let agent = try await WorkloadAPIServer()
        try agent.send("{\"what\": \"denied\"}")
        let admin = FreePort.next()
        let file = try Self.write(agent, admin: admin)
        let check = try await ChildProcess.run(TestTools.bootstrap, ["node", "--config", file, "--check"])
        #expect(check.succeeded, "\(check.standardError)")
        let node = try ChildProcess(TestTools.bootstrap, ["node", "--config", file])
        // Nobody has registered this process yet.
        _ = try await node.standardError.line(containing: "waiting for an identity: ")
        #expect(node.standardError.text.contains("unix:uid:"), "\(node.standardError.text)")
        try agent.send(Self.one)
        _ = try await node.standardOutput.line(containing: "ready in")
        let first = try await Self.serial(admin)
        try agent.send(Self.one)
        try await eventually("another certificate") { try await Self.serial(admin) != first }
        // Nothing of it is in a file.
        let files = try FileManager.default.subpathsOfDirectory(atPath: agent.directory.path)
        #expect(files.filter { $0.hasSuffix("key.pem") }.allSatisfy { $0.hasPrefix("peer-of-") }, "\(files)")
        node.signal(SIGTERM)
        #expect(try await node.exit() == .exited(0))
        await agent.stop()
    }

    @Test func aNodeThatWaitsCanBeEnded() async throws {
        let agent = try await WorkloadAPIServer()
        let file = try Self.write(agent, ", startTimeout: 1h")
        let node = try ChildProcess(TestTools.bootstrap, ["node", "--config", file])
        // It has asked, and the agent says nothing.
        _ = try await agent.output.line(containing: "stream")
        node.signal(SIGTERM)
        #expect(try await node.exit() == .exited(0))
        #expect(node.standardError.text.contains("before there was an identity"), "\(node.standardError.text)")
        await agent.stop()
    }

    /// A process that runs serves until the one after it has an identity.
    @Test func aNodeThatWaitsTakesNothingOver() async throws {
        let agent = try await WorkloadAPIServer()
        try agent.send(Self.one)
        let runtime = try agent.directory.makeDirectory("run", permissions: 0o700)
        let file = try Self.write(agent, admin: FreePort.next(), ", startTimeout: 2s")
        let arguments = ["node", "--config", file, "--runtime", runtime]
        let first = try ChildProcess(TestTools.bootstrap, arguments)
        _ = try await first.standardOutput.line(containing: "ready in")
        try await eventually("it can be taken over") {
            (try? FileManager.default.contentsOfDirectory(atPath: runtime))?.isEmpty == false
        }
        try agent.send("{\"what\": \"denied\"}")
        let second = try await ChildProcess.run(TestTools.bootstrap, arguments)
        #expect(second.status != .exited(0))
        #expect(second.standardError.contains("no identity within 2"), "\(second.standardError)")
        #expect(!first.standardError.text.contains("take over"), "\(first.standardError.text)")
        first.signal(SIGTERM)
        #expect(try await first.exit() == .exited(0))
        await agent.stop()
    }
}
