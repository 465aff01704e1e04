import Foundation
import TestPeers
import Testing

/// The access log of `bootstrap node`.
@Suite(.timeLimit(.minutes(10))) struct AccessLogCommandTests {
    private static func configuration(log: String, backend: UInt16) -> String {
        """
        identity: \(TestCertificates.shared.path(.client))
        default: direct
        listeners:
        - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "127.0.0.1:\(backend)"}
        accessLog: {file: \(log)}
        """
    }

    private static func start(_ file: String) async throws -> (ChildProcess, UInt16) {
        let node = try ChildProcess(TestTools.bootstrap, ["node", "--config", file])
        let ready = try await node.standardOutput.line(containing: "ready in")
        return (node, try #require(ready.split(separator: ":").last.flatMap { UInt16($0) }))
    }

    @Test func linesGoToStandardOutput() async throws {
        let backend = try EchoServer()
        let directory = TemporaryDirectory()
        let file = try directory.write("node.yaml", Self.configuration(log: "stdout", backend: backend.port))
        let (node, port) = try await Self.start(file)
        _ = try await TCPClient.exchange(port: port, sending: [1, 2])
        let line = try await node.standardOutput.line(containing: "\"outcome\":\"ended\"")
        let object = try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any]
        #expect(object?["listener"] as? String == "in" && object?["path"] as? String == "direct", "\(line)")
        // The end of the node writes what is there, and cuts tell of it.
        let talk = try await TCPConversation(port: port)
        _ = try await talk.echo([1])
        node.signal(SIGTERM)
        node.signal(SIGTERM)
        _ = try await node.standardOutput.line(containing: "\"outcome\":\"cut\",\"by\":\"node\",\"code\":\"draining\"")
        _ = try await node.exit()
    }

    @Test func aHangupOpensTheFileAgain() async throws {
        let backend = try EchoServer()
        let directory = TemporaryDirectory()
        let log = directory.path("log")
        let file = try directory.write("node.yaml", Self.configuration(log: "log", backend: backend.port))
        let (node, port) = try await Self.start(file)
        _ = try await TCPClient.exchange(port: port, sending: [1])
        try await eventually("a line") { (try? directory.read("log"))?.contains("\"outcome\"") == true }
        try FileManager.default.moveItem(atPath: log, toPath: log + ".1")
        // Also where the configuration is broken.
        _ = try directory.write("node.yaml", "nonsense")
        node.signal(SIGHUP)
        try await eventually("another file") { FileManager.default.fileExists(atPath: log) }
        _ = try await TCPClient.exchange(port: port, sending: [1])
        try await eventually("a line in it") { (try? directory.read("log"))?.contains("\"outcome\"") == true }
        #expect(try directory.read("log.1").split(separator: "\n").count == 1)
        _ = await node.stop()
    }

    @Test func aLogThatCannotBeOpenedIsAnError() async throws {
        let directory = TemporaryDirectory()
        let file = try directory.write("node.yaml", Self.configuration(log: "none/log", backend: 1))
        for arguments in [["--check"], []] {
            let output = try await ChildProcess.run(TestTools.bootstrap, ["node", "--config", file] + arguments)
            #expect(output.status == .exited(2))
            #expect(output.standardError.contains("node.yaml:5:12: 'accessLog': "), "\(output.standardError)")
            #expect(output.standardError.contains("No such file or directory"))
        }
    }
}
