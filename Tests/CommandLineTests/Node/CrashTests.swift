import Foundation
import TestPeers
import Testing

/// A process that is killed says nothing, and the kernel closes its sockets: programs on both sides must not take that
/// for the end of what was sent.
@Suite(.timeLimit(.minutes(10))) struct CrashTests {
    private final class Bench: Sendable {
        let directory = TemporaryDirectory()
        let backend: ChildProcess
        let server: ChildProcess
        let client: ChildProcess
        let entry: UInt16

        init() async throws {
            backend = try ChildProcess(
                TestTools.python,
                [TestTools.repository + "/Tests/Peers/ends.py"],
                keepsInputOpen: true
            )
            let first = try await backend.standardOutput.line("a port") { UInt16($0) != nil }
            let backendPort = try #require(UInt16(first))
            try directory.write(
                "server.yaml",
                NodeFile.server(identity: TestCertificates.shared.path(.server), ports: [backendPort])
            )
            let hbone: UInt16
            (server, hbone) = try await Self.start(directory.path("server.yaml"))
            try directory.write(
                "client.yaml",
                """
                identity: \(TestCertificates.shared.path(.client))
                listeners:
                - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "127.0.0.1:\(backendPort)"}
                endpoints:
                - {match: "127.0.0.1:\(backendPort)", hbone: "127.0.0.1:\(hbone)"}
                """
            )
            (client, entry) = try await Self.start(directory.path("client.yaml"))
        }

        private static func start(_ file: String) async throws -> (ChildProcess, UInt16) {
            let process = try ChildProcess(TestTools.bootstrap, ["node", "--config", file])
            let line = try await process.standardOutput.line(containing: "ready ")
            return (process, try #require(line.split(separator: ":").last.flatMap { UInt16($0) }))
        }
    }

    enum Half: CaseIterable { case near, far }

    @Test(arguments: Half.allCases) func aKilledNodeResetsWhatItCarried(_ half: Half) async throws {
        let bench = try await Bench()
        let conversation = try await TCPConversation(port: bench.entry)
        let sent = Pattern.bytes(300_000, seed: 1)
        #expect(Checksum.of(try await conversation.echo(sent)) == Checksum.of(sent))
        (half == .near ? bench.client : bench.server).signal(SIGKILL)
        _ = try await bench.backend.standardOutput.line(containing: "reset")
        let (_, ending) = try await conversation.end(finishing: false)
        #expect(ending == .broken(ECONNRESET), "\(bench.client.standardError.text)")
        #expect(!bench.backend.standardOutput.text.contains("end"))
    }

    /// Bytes that are still on their way when the last of two ends is said arrive all the same.
    @Test func whatEndsInOrderIsWhole() async throws {
        let bench = try await Bench()
        for size in [0, 1, 3_000_000] {
            let sent = Pattern.bytes(size, seed: UInt64(size))
            let (received, ending) = try await TCPClient.exchange(port: bench.entry, sending: sent)
            #expect(Checksum.of(received) == Checksum.of(sent))
            #expect(ending == .endOfStream, "\(bench.client.standardError.text)\(bench.server.standardError.text)")
        }
        try await eventually("the backend read three ends") {
            bench.backend.standardOutput.text.components(separatedBy: "end\n").count == 4
        }
        #expect(!bench.backend.standardOutput.text.contains("reset"))
    }
}
