import Foundation
import TestPeers
import Testing

/// A named pipe in the place of the configuration: nobody writes to it, and the node must not wait for that.
@Suite(.timeLimit(.minutes(10))) struct FIFOConfigurationTests {
    private let directory = TemporaryDirectory()
    private let message = "node.yaml: cannot be read: it is not a regular file"

    @Test(arguments: [[], ["--check"], ["--print-config"]]) func itIsRefused(_ arguments: [String]) async throws {
        let file = directory.path("node.yaml")
        try #require(mkfifo(file, 0o600) == 0)
        let run = try await ChildProcess.run(TestTools.bootstrap, ["node", "--config", file] + arguments)
        #expect(run.status == .exited(2))
        #expect(run.standardError.contains(message), "\(run.standardError)")
    }

    @Test func aReloadGoesOnWithWhatThereIs() async throws {
        let (port, other) = (FreePort.next(), FreePort.next())
        let file = directory.path("node.yaml")
        try write(port)
        let node = try ChildProcess(
            TestTools.bootstrap,
            ["node", "--config", file, "--loops", "1", "--drain", "1s"]
        )
        _ = try await node.standardOutput.line(containing: "ready ")
        try #require(unlink(file) == 0 && mkfifo(file, 0o600) == 0)
        node.signal(SIGHUP)
        _ = try await node.standardError.line(containing: message)
        // The next good file is taken.
        try #require(unlink(file) == 0)
        try write(other)
        node.signal(SIGHUP)
        _ = try await node.standardOutput.line(containing: "127.0.0.1:\(other)")
        try #require(unlink(file) == 0 && mkfifo(file, 0o600) == 0)
        node.signal(SIGHUP)
        node.signal(SIGTERM)
        #expect(try await node.exit() == .exited(0))
    }

    private func write(_ port: UInt16) throws {
        try directory.write(
            "node.yaml",
            NodeFile.server(identity: TestCertificates.shared.path(.server), ports: [1], bind: port)
        )
    }
}
