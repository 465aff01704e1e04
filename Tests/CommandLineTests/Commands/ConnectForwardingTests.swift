import Foundation
import TestPeers
import Testing

/// `-L`, `-R`, `-D` and `-W` as somebody types them, to a real sshd, over plain SSH and to an enrolled device.
@Suite(.timeLimit(.minutes(10))) struct ConnectForwardingTests {
    private func exchange(_ port: UInt16, seed: UInt64) async throws {
        let sent = Pattern.bytes(300_000, seed: seed)
        let (received, ending) = try await TCPClient.exchange(port: port, sending: sent)
        #expect(ending == .endOfStream)
        #expect(Checksum.of(received) == Checksum.of(sent))
    }

    private func port(of line: String) throws -> UInt16 {
        let address = try #require(line.split(separator: " ").first { $0.contains(":") })
        return try #require(UInt16(address.split(separator: ":").last ?? ""))
    }

    @Test func everythingOverPlainSSH() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        let socket = journey.directory.path("local.sock")
        let connect = try journey.start(
            [
                "connect", journey.destination, "-R", "0:localhost:\(backend.port)", "-D", "0",
                "-L", "\(socket):localhost:\(backend.port)",
            ] + journey.sshOptions
        )
        let output = connect.standardOutput
        let socks = try port(of: try await output.line(containing: "SOCKS"))
        // The port that the far side chose.
        let far = try port(of: try await output.line(containing: "listening localhost:"))
        #expect(far > 0)
        try await exchange(far, seed: 1)

        // Names are resolved on the far side: curl hands them over as they are.
        let size = 2_000_000
        try journey.directory.makeDirectory("web", permissions: 0o755)
        try Data(Pattern.bytes(size, seed: 2)).write(to: URL(fileURLWithPath: journey.directory.path("web/file")))
        let webPort = FreePort.next()
        let web = try ChildProcess(
            TestTools.python,
            ["-m", "http.server", "-b", "127.0.0.1", "-d", journey.directory.path("web"), "\(webPort)"]
        )
        try await eventually("the web server listens") {
            await (try? TCPClient.exchange(port: webPort, sending: Array("HEAD / HTTP/1.0\r\n\r\n".utf8))) != nil
        }
        for scheme in ["socks5h", "socks4a", "socks5"] {
            let back = journey.directory.path("back-\(scheme)")
            let curl = try await ChildProcess.run(
                "curl",
                [
                    "-sS", "--max-time", "60", "--proxy", "\(scheme)://127.0.0.1:\(socks)", "-o", back,
                    "http://localhost:\(webPort)/file",
                ],
                within: .seconds(70)
            )
            #expect(curl.succeeded, "\(scheme): \(curl.standardError)")
            let received = (try? Data(contentsOf: URL(fileURLWithPath: back))) ?? Data()
            #expect(Checksum.of(Array(received)) == Pattern.checksum(size, seed: 2))
        }
        await web.stop()
        // A name that does not exist, and a port that nobody listens on, are answered and not hung up on.
        for target in ["does-not-exist.invalid:1", "127.0.0.1:\(FreePort.next())"] {
            let curl = try await ChildProcess.run(
                "curl",
                ["-sS", "--max-time", "30", "--proxy", "socks5h://127.0.0.1:\(socks)", "telnet://\(target)"]
            )
            #expect(!curl.succeeded)
            #expect(curl.standardError.contains("SOCKS5"), "\(curl.standardError)")
            // It never was a stream, so none was cut.
            _ = try await connect.standardError.line(containing: "no stream to \(target) (SOCKS): ")
        }
        // Nobody else may use the operator's socket.
        let mode = try FileManager.default.attributesOfItem(atPath: socket)[.posixPermissions] as? Int
        #expect(mode.map { $0 & 0o077 } == 0)
        let python = try await ChildProcess.run(
            TestTools.python,
            ["-c", Self.unixClient, socket],
            within: .seconds(60)
        )
        #expect(python.standardOutput == "ok\n", "\(python.standardError)")

        // The SSH connection is lost: the far side listens again once it is back, on the same port.
        let lines = output.lines.count - 1
        journey.sshd.killSessions()
        try await eventually("the far side listens again") {
            output.lines.dropFirst(lines).contains { $0.contains("listening localhost:\(far)") }
        }
        try await exchange(far, seed: 3)
        connect.signal(SIGTERM)
        #expect(try await connect.exit() == .exited(0))
        await journey.stop()
    }

    private static let unixClient = """
        import os, socket, sys
        s = socket.socket(socket.AF_UNIX)
        s.connect(sys.argv[1])
        data = os.urandom(60000)
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        back = b''
        while chunk := s.recv(65536): back += chunk
        print('ok' if back == data else 'different: %d' % len(back))
        """

    /// The answer comes after the end of what was sent: `ssh -W` loses it.
    @Test(arguments: [["--path", "ssh"], ["--path", "h2"], ["--path", "h2-over-ssh"]])
    func standardInputAndOutput(path: [String]) async throws {
        let journey = try await Journey()
        let sink = try SinkServer()
        try await journey.makeAuthority()
        let enrolled = try await journey.enroll(allow: sink.port)
        #expect(enrolled.succeeded, "\(enrolled.standardError)")
        let size = 2_000_000
        let input = Pattern.bytes(size, seed: 4)
        let connect = try journey.start(
            ["connect", "device1", "-W", "localhost:\(sink.port)"] + path,
            keepsInputOpen: true
        )
        DispatchQueue.global().async {
            try? connect.write(input)
            connect.closeInput()
        }
        #expect(try await connect.exit() == .exited(0), "\(connect.standardError.text)")
        // Nothing else is on standard output.
        #expect(try await connect.standardOutput.complete() == "\(Pattern.checksum(size, seed: 4)) \(size)\n")
        await journey.stop()
    }

    /// The server has not noticed that the connection is gone, and still has its port: no reason to give up.
    @Test func aRemotePortComesBackOnceTheServerHasLetItGo() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        let way = try ChildProcess(
            TestTools.python,
            [
                "-u", TestTools.repository + "/Tests/Peers/network/forgetful.py", "127.0.0.1:\(journey.sshd.port)",
            ],
            keepsInputOpen: true
        )
        let port = try await way.standardOutput.line("the port of the way") { !$0.isEmpty }
        let (far, near) = (FreePort.next(), FreePort.next())
        let connect = try journey.start(
            [
                "connect", "\(OpenSSHServer.user)@127.0.0.1:\(port)",
                "-R", "\(far):localhost:\(backend.port)", "-L", "\(near):localhost:\(backend.port)",
                "-o", "StrictHostKeyChecking=accept-new",
            ] + journey.sshOptions
        )
        _ = try await connect.standardOutput.line(containing: "listening localhost:\(far)")
        try await exchange(far, seed: 1)
        try way.write(Array("cut\n".utf8))
        _ = try await connect.standardError.line(containing: "the port is in use there")
        // What else it does goes on.
        try await exchange(near, seed: 2)
        try way.write(Array("release\n".utf8))
        try await eventually("the far side listens again") {
            connect.standardOutput.text.components(separatedBy: "listening localhost:\(far)").count == 3
        }
        try await exchange(far, seed: 3)
        await connect.stop()
        await way.stop()
        await journey.stop()
    }

    @Test func whatCannotBeIsSaid() async throws {
        let journey = try await Journey(sshd: try await OpenSSHServer(configuration: ["AllowTcpForwarding local"]))
        let refused = try await journey.run(
            ["connect", journey.destination, "-R", "0:localhost:1"] + journey.sshOptions
        )
        #expect(refused.status == .exited(5), "\(refused.standardError)")
        #expect(refused.standardError.contains("AllowTcpForwarding"))

        // What else was asked for is there.
        let backend = try EchoServer()
        let near = FreePort.next()
        let both = try journey.start(
            ["connect", journey.destination, "-R", "0:localhost:1", "-L", "\(near):localhost:\(backend.port)"]
                + journey.sshOptions
        )
        _ = try await both.standardError.line(containing: "AllowTcpForwarding")
        try await exchange(near, seed: 9)
        await both.stop()

        let port = FreePort.next()
        let nowhere = try await journey.run(
            ["connect", journey.destination, "-v", "-W", "127.0.0.1:\(port)"] + journey.sshOptions
        )
        #expect(nowhere.status == .exited(1), "\(nowhere.standardError)")
        #expect(nowhere.standardError.contains("127.0.0.1:\(port)"))
        #expect(nowhere.standardError.contains("no policy but the SSH server's"))
        #expect(nowhere.standardOutput.isEmpty)

        for (arguments, mention) in [
            (["-R", "8080"], "-R 8080:localhost:80"), (["-D", "x"], "-D 1080"), (["-W", "host"], "host:port"),
            (["-L", "/a:b"], "-L"), (["-R", "/a.sock:web:80"], "Unix sockets"),
        ] {
            let output = try await journey.run(["connect", journey.destination] + arguments)
            #expect(output.status == .exited(2), "\(arguments): \(output.standardError)")
            #expect(output.standardError.contains(mention), "\(output.standardError)")
        }
        await journey.stop()
    }

    /// The server forbids forwarding: the mesh's streams go through a command of the agent, and identity and policy
    /// hold.
    @Test(arguments: [
        ["AllowTcpForwarding no"], ["DisableForwarding yes", "MaxSessions 1"], ["PermitOpen 127.0.0.1:1"],
    ])
    func aServerThatDoesNotForward(lines: [String]) async throws {
        let journey = try await Journey(sshd: try await OpenSSHServer(configuration: lines))
        let backend = try EchoServer()
        try await journey.makeAuthority()
        let enrolled = try await journey.enroll(allow: backend.port)
        #expect(enrolled.succeeded, "\(enrolled.standardError)")
        let (port, forbidden) = (FreePort.next(), FreePort.next())
        let connect = try journey.start(
            [
                "connect", "device1", "--path", "h2-over-ssh", "-L", "\(port):localhost:\(backend.port)", "-L",
                "\(forbidden):localhost:1",
            ]
        )
        let line = try await connect.standardOutput.line(containing: "through the agent")
        #expect(line.contains("AllowTcpForwarding no"))
        _ = try await connect.standardOutput.line(containing: "path h2-over-ssh: ")
        _ = try await connect.standardOutput.line(containing: "peer spiffe://journey.example/")
        try await withThrowingTaskGroup(of: Void.self) { group in
            for seed in 1...4 as ClosedRange<UInt64> { group.addTask { try await exchange(port, seed: seed) } }
            try await group.waitForAll()
        }
        // The device's policy decides, as ever.
        let (_, ending) = try await TCPClient.exchange(port: forbidden, sending: [])
        #expect(ending == .broken(ECONNRESET))
        _ = try await connect.standardError.line(containing: "no stream to localhost:1")
        connect.signal(SIGTERM)
        #expect(try await connect.exit() == .exited(0))
        await journey.stop()
    }
}
