import Foundation
import Streams
import TestPeers
import Testing

/// The end of a node process, and its replacement by another one: real processes, real signals.
@Suite(.timeLimit(.minutes(10))) struct TakeoverTests {
    /// The configurations of a server and of a client node, each with a runtime directory.
    final class Bench: Sendable {
        let directory = TemporaryDirectory()
        let backend: EchoServer
        let hbonePort: UInt16

        init(serverSettings: String = "") throws {
            backend = try EchoServer()
            hbonePort = FreePort.next()
            try directory.write(
                "server.yaml",
                NodeFile.server(
                    identity: TestCertificates.shared.path(.server),
                    ports: [backend.port],
                    bind: hbonePort
                ) + "\n\(serverSettings)\n"
            )
            try directory.write(
                "client.yaml",
                """
                identity: \(TestCertificates.shared.path(.client))
                listeners:
                - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "127.0.0.1:\(backend.port)"}
                endpoints:
                - match: "127.0.0.1:\(backend.port)"
                  hbone: "127.0.0.1:\(hbonePort)"
                """
            )
        }

        /// Starts a node and waits until it accepts; returns the port of its first listener.
        func start(_ name: String, _ arguments: String...) async throws -> (ChildProcess, UInt16) {
            let process = try ChildProcess(
                TestTools.bootstrap,
                ["node", "--config", directory.path("\(name).yaml"), "--runtime", directory.path("run-\(name)")]
                    + arguments
            )
            do {
                let line = try await process.standardOutput.line(containing: "ready ")
                return (process, try #require(line.split(separator: ":").last.flatMap { UInt16($0) }))
            } catch {
                throw DeadlineExceeded("\(error); it said:\n\(process.standardError.text)")
            }
        }
    }

    /// Opens connections one after the other, several at a time, each with a few bytes that must come back.
    private actor Callers {
        private(set) var completed = 0
        private(set) var failures: [String] = []
        private var isStopped = false

        func call(_ port: UInt16, seed: UInt64) async {
            var seed = seed
            // Whoever fails says so once.
            while !isStopped, !Task.isCancelled, failures.isEmpty {
                seed += 10
                let sent = Pattern.bytes(2000, seed: seed)
                do {
                    let (received, ending) = try await TCPClient.exchange(port: port, sending: sent)
                    if received == sent, ending == .endOfStream {
                        completed += 1
                    } else {
                        failures.append("\(received.count) bytes, \(ending)")
                    }
                } catch {
                    failures.append("\(error)")
                }
            }
        }

        func stop() { isStopped = true }
    }

    @Test func restartsRefuseNoConnectionAndCutNoStream() async throws {
        let bench = try Bench()
        let (firstServer, _) = try await bench.start("server")
        let (firstClient, entry) = try await bench.start("client")
        let conversation = try await TCPConversation(port: entry)
        let parts = (1...3).map { Pattern.bytes(300_000, seed: UInt64($0)) }
        #expect(Checksum.of(try await conversation.echo(parts[0])) == Checksum.of(parts[0]))

        let callers = Callers()
        try await withThrowingTaskGroup(of: Void.self) { group in
            for index in 0..<4 { group.addTask { await callers.call(entry, seed: UInt64(index)) } }
            func more() async throws {
                let before = await callers.completed
                try await eventually("calls go on") {
                    let (completed, failures) = await (callers.completed, callers.failures)
                    return completed >= before + 20 || !failures.isEmpty
                }
            }
            try await more()
            let (secondServer, _) = try await bench.start("server")
            try await more()
            let (secondClient, sameEntry) = try await bench.start("client")
            #expect(sameEntry == entry, "also a port that the kernel chose is taken over")
            try await more()
            let (thirdServer, _) = try await bench.start("server")
            try await more()

            // One clear line on each side.
            _ = try await firstServer.standardError.line(
                containing: "process \(secondServer.pid) has taken over the listeners"
            )
            _ = try await secondServer.standardError.line(
                containing: "took over 1 listener from process \(firstServer.pid)"
            )
            // The server in the middle carried short streams only, and is done.
            #expect(try await secondServer.exit() == .exited(0))
            // The stream that runs all the time is still where it was.
            #expect(Checksum.of(try await conversation.echo(parts[1])) == Checksum.of(parts[1]))
            #expect(firstServer.isRunning)
            #expect(firstClient.isRunning)

            await callers.stop()
            try await group.waitForAll()
            let failures = await callers.failures
            #expect(failures == [])

            #expect(Checksum.of(try await conversation.echo(parts[2])) == Checksum.of(parts[2]))
            let (rest, ending) = try await conversation.end()
            #expect(rest == 0)
            #expect(ending == .endOfStream)
            #expect(try await firstClient.exit() == .exited(0))
            #expect(try await firstServer.exit() == .exited(0))
            await secondClient.stop()
            await thirdServer.stop()
        }
    }

    @Test func aProcessThatDoesNotGetReadyChangesNothing() async throws {
        let bench = try Bench()
        let (server, _) = try await bench.start("server")
        let (client, entry) = try await bench.start("client")
        let good = try bench.directory.read("server.yaml")
        let taken = try EchoServer()
        // It takes over one listener and fails at the other.
        try bench.directory.write(
            "server.yaml",
            good.replacingOccurrences(
                of: "listeners:\n",
                with: "listeners:\n- {name: other, bind: \"127.0.0.1:\(taken.port)\", protocol: hbone}\n"
            )
        )
        let output = try await ChildProcess.run(
            TestTools.bootstrap,
            ["node", "--config", bench.directory.path("server.yaml"), "--runtime", bench.directory.path("run-server")]
        )
        #expect(output.status == .exited(1))
        #expect(output.standardError.contains("127.0.0.1:\(taken.port)"))
        _ = try await server.standardError.line(containing: "has ended before it was ready")
        let sent = Pattern.bytes(100_000, seed: 3)
        let (received, ending) = try await TCPClient.exchange(port: entry, sending: sent)
        #expect(ending == .endOfStream)
        #expect(Checksum.of(received) == Checksum.of(sent))
        // And the next one succeeds.
        try bench.directory.write("server.yaml", good)
        let (next, _) = try await bench.start("server")
        #expect(try await server.exit() == .exited(0))
        await client.stop()
        await next.stop()
    }

    @Test func aDirectoryThatOthersMayWriteToIsRefused() async throws {
        let bench = try Bench()
        try FileManager.default.createDirectory(
            atPath: bench.directory.path("run-server"),
            withIntermediateDirectories: false,
            attributes: [.posixPermissions: 0o777]
        )
        chmod(bench.directory.path("run-server"), 0o777)
        let output = try await ChildProcess.run(
            TestTools.bootstrap,
            ["node", "--config", bench.directory.path("server.yaml"), "--runtime", bench.directory.path("run-server")]
        )
        #expect(output.status == .exited(1))
        #expect(output.standardError.contains("others may write to"))
    }

    @Test func theStreamsOfAReplacedProcessCanBeGivenALimit() async throws {
        let bench = try Bench(serverSettings: "connections: {drainTimeout: 500ms}")
        let (server, _) = try await bench.start("server")
        let (client, entry) = try await bench.start("client")
        let conversation = try await TCPConversation(port: entry)
        #expect(try await conversation.echo([1, 2, 3]) == [1, 2, 3])
        let (next, _) = try await bench.start("server")
        let (_, ending) = try await conversation.end(finishing: false)
        #expect(ending == .broken(ECONNRESET))
        #expect(try await server.exit() == .exited(0))
        await client.stop()
        await next.stop()
    }

    @Test func socketsOfSystemdAreUsed() async throws {
        let bench = try Bench()
        // As systemd does it: the socket is descriptor 3, blocking and inheritable.
        let script = """
            import os, socket, sys
            listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
            os.dup2(listener.fileno(), 3)
            os.set_inheritable(3, True)
            os.set_blocking(3, True)
            os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="hbone")
            os.execv(sys.argv[2], sys.argv[2:])
            """
        let server = try ChildProcess(
            TestTools.python,
            [
                "-c", script, "\(bench.hbonePort)", TestTools.bootstrap, "node", "--config",
                bench.directory.path("server.yaml"),
            ]
        )
        _ = try await server.standardOutput.line(containing: "ready hbone 127.0.0.1:\(bench.hbonePort)")
        _ = try await server.standardError.line(containing: "took over 1 listener from systemd")
        let (client, entry) = try await bench.start("client")
        let (received, ending) = try await TCPClient.exchange(port: entry, sending: [1, 2, 3])
        #expect(received == [1, 2, 3])
        #expect(ending == .endOfStream)
        await client.stop()
        #expect(await server.stop(grace: .seconds(60)) == .exited(0))
    }

    // MARK: Signals

    @Test func aSecondSignalEndsTheProcessAtOnce() async throws {
        let bench = try Bench()
        let (server, _) = try await bench.start("server", "--drain", "1h")
        let (client, entry) = try await bench.start("client")
        let conversation = try await TCPConversation(port: entry)
        #expect(try await conversation.echo([1, 2, 3]) == [1, 2, 3])
        server.signal(SIGTERM)
        _ = try await server.standardError.line(containing: "draining")
        // The stream has time: an hour.
        #expect(try await conversation.echo([4, 5, 6]) == [4, 5, 6])
        #expect(server.isRunning)
        server.signal(SIGINT)
        #expect(try await server.exit() == .exited(1))
        let (_, ending) = try await conversation.end(finishing: false)
        #expect(ending == .broken(ECONNRESET), "a stream that was cut must not look finished")
        await client.stop()
    }

    @Test func aStreamThatLastsLongerThanTheDrainIsCutAndTheProcessEnds() async throws {
        let bench = try Bench()
        let (server, _) = try await bench.start("server", "--drain", "1s")
        let (client, entry) = try await bench.start("client")
        let conversation = try await TCPConversation(port: entry)
        #expect(try await conversation.echo([1, 2, 3]) == [1, 2, 3])
        server.signal(SIGTERM)
        #expect(try await server.exit() == .exited(0))
        let (_, ending) = try await conversation.end(finishing: false)
        #expect(ending == .broken(ECONNRESET))
        await client.stop()
    }
}
