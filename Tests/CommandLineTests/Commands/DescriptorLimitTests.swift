import Foundation
import TestPeers
import Testing

/// Commands that may have few files open.
@Suite(.timeLimit(.minutes(10))) struct DescriptorLimitTests {
    @Test("an error that says so, or success, and no crash")
    func few() async throws {
        let journey = try await Journey()
        let command = [TestTools.bootstrap, "exec", journey.destination] + journey.sshOptions + ["--", "true"]
        for limit in [8, 9, 10, 12, 14, 16, 18, 20, 24] {
            let output = try await ChildProcess.run(
                "/bin/sh",
                ["-c", "ulimit -n \(limit); exec \"$@\"", "sh"] + command,
                within: .seconds(60)
            )
            guard case .exited(let code) = output.status else {
                Issue.record("\(output.status) with \(limit) descriptors: \(output.standardError)")
                continue
            }
            #expect(code == 0 || output.standardError.contains("error: "), "\(limit): \(output.standardError)")
            if limit == 8 { #expect(output.standardError.contains("ulimit -n")) }
        }
        await journey.stop()
    }

    /// Who waits sees nothing; whoever reads the log does.
    @Test func aNodeWithoutDescriptorsSaysSo() async throws {
        let directory = TemporaryDirectory()
        let echo = try EchoServer()
        let port = FreePort.next()
        let configuration = try directory.write(
            "node.yaml",
            NodeFile.forwarding(identity: TestCertificates.shared.path(.server), bind: port, to: echo.port)
        )
        let node = try ChildProcess(
            "/bin/sh",
            [
                "-c", "ulimit -n 40; exec \"$@\"", "sh", TestTools.bootstrap, "node", "--loops", "1", "--config",
                configuration,
            ]
        )
        _ = try await node.standardOutput.line(containing: "ready ")
        var connections: [TCPConversation] = []
        for _ in 0..<60 { connections.append(try await TCPConversation(port: port)) }
        let line = try await node.standardError.line(containing: "connections wait: ")
        #expect(line.contains("as many files open as it may have (40)"), "\(line)")
        withExtendedLifetime(connections) {}
        node.signal(SIGKILL)
    }
}
