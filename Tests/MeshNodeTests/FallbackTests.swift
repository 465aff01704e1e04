import Foundation
import Logging
import MeshIdentity
import MeshNode
import Streams
import Synchronization
import TestPeers
import Testing

/// The server node is a process of its own, so that it can be stopped, killed and started again; sshd is a real one.
@Suite(.timeLimit(.minutes(10))) struct FallbackTests {
    /// A server process, a client node in this process with all three paths to it, and a backend behind the server.
    final class Bench: Sendable {
        let directory = TemporaryDirectory()
        let backend: EchoServer
        let sshd: OpenSSHServer
        let client: Node
        let entry: UInt16
        let hbonePort: UInt16
        let log = LogRecorder()

        init() async throws {
            backend = try EchoServer()
            sshd = try await OpenSSHServer()
            hbonePort = FreePort.next()
            try directory.write(
                "server.yaml",
                NodeFile.server(
                    identity: TestCertificates.shared.path(.server),
                    ports: [backend.port],
                    bind: hbonePort
                )
            )
            let file = try directory.write(
                "client.yaml",
                """
                identity: \(TestCertificates.shared.path(.client))
                listeners:
                - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "127.0.0.1:\(backend.port)"}
                endpoints:
                - match: "127.0.0.1:\(backend.port)"
                  hbone: "127.0.0.1:\(hbonePort)"
                \(try await sshd.endpointYAML())
                connections: {resumeTimeout: 1s}
                """
            )
            client = Node(try NodeConfiguration.load(file), loops: 1, logger: log.logger)
            entry = try #require(try await client.start().first).address.port
        }

        func startServer() async throws -> ChildProcess {
            let server = try ChildProcess(
                TestTools.bootstrap,
                ["node", "--config", directory.path("server.yaml"), "--loops", "1", "--drain", "2m"]
            )
            _ = try await server.standardOutput.line(containing: "ready hbone")
            return server
        }

        /// A new connection through the whitebox listener carries bytes both ways.
        func exchange(_ seed: UInt64) async throws {
            let sent = Pattern.bytes(300_000, seed: seed)
            let (received, ending) = try await TCPClient.exchange(port: entry, sending: sent)
            #expect(ending == .endOfStream)
            #expect(Checksum.of(received) == Checksum.of(sent))
        }

        func stop() async {
            await client.drain(deadline: .seconds(1))
            await sshd.stop()
        }
    }

    @Test func aServerThatHangsIsLeftForSSHAndTakenBackWhenItAnswers() async throws {
        let bench = try await Bench()
        let server = try await bench.startServer()
        try await bench.exchange(1)
        try await bench.log.line(containing: "path h2: ")

        // The process hangs: its kernel still accepts connections, nobody answers.
        try await suspend(server.pid)
        try await bench.exchange(2)
        try await bench.log.line(containing: "path h2 → ssh: ")

        let lines = bench.log.lines.count
        server.signal(SIGCONT)
        // By way of `h2-over-ssh`, where that proves stable a moment sooner.
        try await bench.log.line(containing: "→ h2: h2 is back and stable", after: lines)
        let sessions = bench.sshd.sessionProcesses.count
        try await bench.exchange(3)
        // None comes; one that nobody needs may go.
        #expect(bench.sshd.sessionProcesses.count <= sessions)
        await server.stop()
        await bench.stop()
    }

    @Test func aServerThatIsKilledIsLeftForSSHAndTakenBackWhenItIsStartedAgain() async throws {
        let bench = try await Bench()
        let server = try await bench.startServer()
        try await bench.exchange(1)
        server.signal(SIGKILL)
        _ = try await server.exit()
        try await bench.exchange(2)
        try await bench.log.line(containing: "path h2 → ssh: ")

        let lines = bench.log.lines.count
        let second = try await bench.startServer()
        try await bench.log.line(containing: "→ h2: h2 is back and stable", after: lines)
        try await bench.exchange(3)
        await second.stop()
        await bench.stop()
    }

    @Test func aStreamThatIsOpenWhenItsPathDiesIsResetNeverEnded() async throws {
        let bench = try await Bench()
        let server = try await bench.startServer()
        let received = Mutex(0)
        async let conversation = TCPClient.exchange(port: bench.entry, sending: [1], staysOpen: true) { count in
            received.withLock { $0 = count }
        }
        // Not sooner: a request that has no answer yet is rightly made again, over SSH.
        try await eventually("the echo has answered") { received.withLock { $0 } == 1 }
        server.signal(SIGKILL)
        let (_, ending) = try await conversation
        #expect(ending == .broken(ECONNRESET))
        _ = try await server.exit()
        await bench.stop()
    }

    @Test func aServerThatDrainsLetsStreamsEnd() async throws {
        let bench = try await Bench()
        let server = try await bench.startServer()
        let sent = Pattern.bytes(30_000_000, seed: 5)
        async let conversation = TCPClient.exchange(port: bench.entry, sending: sent)
        try await eventually("the echo is connected") { bench.backend.accepted == 1 }
        server.signal(SIGTERM)
        let (received, ending) = try await conversation
        #expect(ending == .endOfStream, "\(bench.log.lines.suffix(10))\n\(server.standardError.text)")
        #expect(Checksum.of(received) == Checksum.of(sent))
        #expect(try await server.exit() == .exited(0))
        await bench.stop()
    }
}
