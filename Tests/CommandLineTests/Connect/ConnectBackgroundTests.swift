import Foundation
import TestPeers
import Testing

/// `connect -f`, and what a service manager is told.
@Suite(.timeLimit(.minutes(10))) struct ConnectBackgroundTests {
    private func exchange(_ port: UInt16, seed: UInt64) async throws {
        let sent = Pattern.bytes(100_000, seed: seed)
        let (received, ending) = try await TCPClient.exchange(port: port, sending: sent)
        #expect(ending == .endOfStream)
        #expect(Checksum.of(received) == Checksum.of(sent))
    }

    @Test func itGoesToTheBackgroundOnceEverythingListens() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        let (near, far) = (FreePort.next(), FreePort.next())
        let (socket, log) = (journey.directory.path("cm"), journey.directory.path("log"))
        let shared = ["connect", journey.destination, "-S", socket] + journey.sshOptions
        // Its output ends with it: nobody who reads it waits for the process in the background.
        let started = try await journey.run(
            shared + [
                "-f", "-E", log, "-L", "\(near):localhost:\(backend.port)", "-R", "\(far):localhost:\(backend.port)",
            ]
        )
        #expect(started.succeeded, "\(started)")
        #expect(started.standardOutput.contains("listening localhost:\(far)"))
        // Everything listens already.
        try await exchange(near, seed: 1)
        try await exchange(far, seed: 2)
        let checked = try await journey.run(shared + ["-O", "check"])
        let words = checked.standardOutput.split { !$0.isNumber }
        let pid = try #require(words.first.flatMap { Int32($0) })
        // In a session of its own, without the terminal.
        #expect(getsid(pid) == pid)

        // The second one leaves its forwards to the first.
        let another = FreePort.next()
        let added = try await journey.run(shared + ["-f", "-L", "\(another):localhost:\(backend.port)"])
        #expect(added.succeeded, "\(added)")
        try await exchange(another, seed: 3)

        // What happens afterwards is in the file of -E; and it connects again by itself.
        journey.sshd.killSessions()
        try await eventually("it says so") { (try? journey.directory.read("log"))?.contains("path ssh") == true }
        try await eventually("the far side listens again") {
            (try? journey.directory.read("log"))?.contains("listening localhost:\(far)") == true
        }
        try await exchange(near, seed: 4)
        #expect(try await journey.run(shared + ["-O", "exit"]).succeeded)
        try await eventually("it has ended") { kill(pid, 0) != 0 }
        await journey.stop()
    }

    @Test func theExitCodeSaysWhyItDoesNot() async throws {
        let journey = try await Journey(sshd: try await OpenSSHServer(configuration: ["AllowTcpForwarding local"]))
        let unreachable = try await journey.run(
            ["connect", "\(OpenSSHServer.user)@127.0.0.1:\(FreePort.next())", "-f", "-N"] + journey.sshOptions
        )
        #expect(unreachable.status == .exited(6), "\(unreachable)")
        let near = FreePort.next()
        let both = ["-L", "\(near):localhost:1", "-R", "0:localhost:1"]
        let refused = try await journey.run(
            ["connect", journey.destination, "-f", "-o", "ExitOnForwardFailure=yes"] + both + journey.sshOptions
        )
        #expect(refused.status == .exited(5), "\(refused)")
        #expect(refused.standardError.contains("AllowTcpForwarding"))
        // Nothing is left.
        await #expect(throws: (any Error).self) { try await TCPConversation(port: near) }
        // Without the option, what can be had is had.
        let socket = journey.directory.path("cm")
        let shared = ["connect", journey.destination, "-S", socket] + journey.sshOptions
        let partly = try await journey.run(shared + ["-f"] + both)
        #expect(partly.succeeded, "\(partly)")
        #expect(try await journey.run(shared + ["-O", "exit"]).succeeded)
        await journey.stop()
    }

    /// What the login asks is asked at the terminal, before; then the terminal may go.
    @Test func whatIsAskedIsAskedBefore() async throws {
        let journey = try await Journey()
        let socket = journey.directory.path("cm")
        let key = journey.directory.path("locked")
        try await OpenSSHServer.makeKey("ed25519", key, passphrase: "secret")
        try journey.sshd.authorize(key + ".pub")
        let options = [
            "-F", journey.directory.path("ssh_config"), "-i", key, "-o", "IdentitiesOnly=yes", "-o",
            "UserKnownHostsFile=\(journey.directory.path("home/.ssh/known_hosts"))", "-S", socket,
        ]
        let asked = try await ChildProcess.run(
            TestTools.python,
            ["-c", Self.person, TestTools.bootstrap, "connect", journey.destination, "-f"] + options,
            environment: [
                "HOME": journey.home, "BOOTSTRAP_HOME": journey.directory.path("home/.bootstrap"),
                "SSH_AUTH_SOCK": nil,
            ]
        )
        #expect(asked.status == .exited(0), "\(asked)")
        #expect(asked.standardOutput.contains("Passphrase for"), "\(asked)")
        let checked = try await journey.run(["connect", journey.destination, "-O", "check"] + options)
        #expect(checked.standardOutput.contains("path ssh: in use"), "\(checked)")
        #expect(try await journey.run(["connect", journey.destination, "-O", "exit"] + options).succeeded)
        await journey.stop()
    }

    /// Answers one question, and hangs up once the program has ended.
    private static let person = """
        import os, pty, select, sys
        pid, terminal = pty.fork()
        if pid == 0:
            os.execv(sys.argv[1], sys.argv[1:])
        seen, answered, done = b"", False, 0
        while not done:
            if select.select([terminal], [], [], 0.05)[0]:
                try:
                    seen += os.read(terminal, 4096)
                except OSError:
                    pass
            if not answered and b"Passphrase" in seen and seen.rstrip().endswith(b":"):
                os.write(terminal, b"secret\\n")
                answered = True
            done, status = os.waitpid(pid, os.WNOHANG)
        sys.stdout.write(seen.decode())
        sys.stdout.flush()
        sys.exit(os.waitstatus_to_exitcode(status))
        """

    /// Whoever starts it and is killed leaves nothing behind.
    @Test func itEndsWithTheOneThatWaits() async throws {
        let journey = try await Journey()
        // A server that says nothing: it never comes so far.
        let silent = try ChildProcess(
            TestTools.python,
            [
                "-u", "-c",
                "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); print(s.getsockname()[1]); "
                    + "c = s.accept()[0]; print('accepted'); print('ended' if c.recv(9999) and not c.recv(1) else '')",
            ]
        )
        let port = try await silent.standardOutput.line("the port") { !$0.isEmpty }
        let first = try journey.start(
            ["connect", "\(OpenSSHServer.user)@127.0.0.1:\(port)", "-f", "-N"] + journey.sshOptions
        )
        _ = try await silent.standardOutput.line(containing: "accepted")
        first.signal(SIGKILL)
        _ = try await silent.standardOutput.line(containing: "ended")
        await silent.stop()
        await journey.stop()
    }

    /// `Type=notify` of systemd, without systemd.
    @Test func aServiceManagerIsTold() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        let near = FreePort.next()
        let manager = try ServiceManager(journey.directory.path("notify"))
        let connect = try ChildProcess(
            TestTools.bootstrap,
            ["connect", journey.destination, "-L", "\(near):localhost:\(backend.port)"] + journey.sshOptions,
            environment: [
                "HOME": journey.home, "BOOTSTRAP_HOME": journey.directory.path("home/.bootstrap"),
                "SSH_AUTH_SOCK": nil, "NOTIFY_SOCKET": manager.path,
            ]
        )
        _ = try await manager.told("READY=1")
        #expect(manager.text.contains("MAINPID=\(connect.pid)"))
        #expect(manager.text.contains("STATUS=path ssh"))
        try await exchange(near, seed: 1)
        connect.signal(SIGTERM)
        #expect(try await connect.exit() == .exited(0))
        _ = try await manager.told("STOPPING=1")
        await journey.stop()
    }

    @Test func aServiceManagerIsToldOfANode() async throws {
        let directory = TemporaryDirectory()
        let file = try directory.write(
            "node.yaml",
            """
            identity: \(TestCertificates.shared.path(.client))
            listeners:
            - {name: out, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "localhost:1"}
            endpoints:
            - {match: "localhost:1", direct: true}
            """
        )
        let manager = try ServiceManager(directory.path("notify"))
        let node = try ChildProcess(
            TestTools.bootstrap,
            ["node", "--config", file],
            environment: ["NOTIFY_SOCKET": manager.path]
        )
        _ = try await node.standardOutput.line(containing: "ready out")
        _ = try await manager.told("READY=1")
        #expect(manager.text.contains("MAINPID=\(node.pid)"))
        node.signal(SIGHUP)
        _ = try await manager.told("RELOADING=1\nMONOTONIC_USEC=")
        try await eventually("it is ready again") { manager.text.components(separatedBy: "READY=1").count == 3 }
        node.signal(SIGTERM)
        _ = try await node.exit()
        _ = try await manager.told("STOPPING=1")
    }
}

/// What systemd has for the services that it starts: a Unix socket for datagrams.
private final class ServiceManager: Sendable {
    let path: String
    private let process: ChildProcess

    init(_ path: String) throws {
        self.path = path
        process = try ChildProcess(
            TestTools.python,
            [
                "-u", "-c",
                """
                import socket, sys
                s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                s.bind(sys.argv[1])
                print('bound')
                while True: print(s.recv(65536).decode())
                """, path,
            ]
        )
        while !FileManager.default.fileExists(atPath: path), process.isRunning { usleep(1000) }
    }

    var text: String { process.standardOutput.text }

    func told(_ what: String) async throws -> String {
        try await eventually("the service manager is told \(what), not only\n\(text)") { text.contains(what) }
        return text
    }
}
