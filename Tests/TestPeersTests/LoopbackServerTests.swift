import Foundation
import TestPeers
import Testing

/// The servers are checked with Python's sockets, which share nothing with them.
@Suite struct LoopbackServerTests {
    private func python(_ script: String, _ arguments: String...) async throws -> String {
        let output = try await ChildProcess.run("python3", ["-c", script] + arguments)
        #expect(output.succeeded, "\(output.standardError)")
        return output.standardOutput
    }

    @Test func sinkAnswersAfterTheEndOfTheStream() async throws {
        let sink = try SinkServer()
        let bytes = Pattern.bytes(3_000_003)
        let directory = TemporaryDirectory()
        let file = try directory.write("bytes", bytes)
        let script = """
            import socket, sys
            s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
            s.sendall(open(sys.argv[2], "rb").read()); s.shutdown(socket.SHUT_WR)
            print(s.makefile().read(), end="")
            """
        let answer = try await python(script, "\(sink.port)", file)
        #expect(answer == "\(Checksum.of(bytes)) 3000003\n")
        #expect(
            try await sink.transfers(1)
                == [Transfer(received: 3_000_003, checksum: Checksum.of(bytes), ending: .endOfStream)]
        )
    }

    @Test func sinkSeesAReset() async throws {
        let sink = try SinkServer()
        let script = """
            import socket, struct, sys
            s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
            s.sendall(b"some"); s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)); s.close()
            """
        _ = try await python(script, "\(sink.port)")
        #expect(try await sink.transfers(1).first?.ending == .broken(ECONNRESET))
    }

    @Test func echoReturnsWhatItGot() async throws {
        let echo = try EchoServer()
        let script = """
            import socket, sys
            s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
            s.sendall(b"hello"); s.shutdown(socket.SHUT_WR); print(s.makefile().read(), end="")
            """
        #expect(try await python(script, "\(echo.port)") == "hello")
    }

    @Test func sourceSendsThePattern() async throws {
        let source = try SourceServer(count: 1_000_001, seed: 7)
        let script = """
            import hashlib, socket, sys
            s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
            print(hashlib.sha256(s.makefile("rb").read()).hexdigest(), end="")
            """
        let checksum = try await python(script, "\(source.port)")
        #expect(checksum == Checksum.of(Pattern.bytes(1_000_001, seed: 7)))
        // Made in one piece or in chunks, the pattern is the same.
        #expect(checksum == Pattern.checksum(1_000_001, seed: 7))
    }

    @Test func aClosedServerRefusesAndBreaksWhatIsOpen() async throws {
        let echo = try EchoServer()
        let script = """
            import socket, sys
            s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
            print("open", flush=True); s.recv(1); print("ended", flush=True)
            try: socket.create_connection(("127.0.0.1", int(sys.argv[1])))
            except ConnectionRefusedError: print("refused")
            """
        let client = try ChildProcess("python3", ["-c", script, "\(echo.port)"])
        try await client.standardOutput.line(containing: "open")
        try await eventually("accepted") { echo.open == 1 }
        echo.close()
        try await client.standardOutput.line(containing: "ended")
        #expect(try await client.exit() == .exited(0))
    }

    @Test func freePortsAreDistinctAndCanBeBound() throws {
        let ports = (0..<50).map { _ in FreePort.next() }
        #expect(Set(ports).count == 50)
        let server = try EchoServer(port: ports[0])
        #expect(server.port == ports[0])
    }
}
