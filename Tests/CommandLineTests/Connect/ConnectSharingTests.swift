import Foundation
import TestPeers
import Testing

/// `connect -S` and `-O`: several processes over the paths of one.
@Suite(.timeLimit(.minutes(10))) struct ConnectSharingTests {
    private func exchange(_ port: UInt16, seed: UInt64) async throws {
        let sent = Pattern.bytes(300_000, seed: seed)
        let (received, ending) = try await TCPClient.exchange(port: port, sending: sent)
        #expect(ending == .endOfStream)
        #expect(Checksum.of(received) == Checksum.of(sent))
    }

    private func mode(_ path: String) -> Int? {
        (try? FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int).map { $0 & 0o777 }
    }

    @Test func aSecondProcessUsesThePathsOfTheFirst() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        let sink = try SinkServer()
        // Tokens as in ControlPath.
        let path = journey.directory.path("cm-%p-%r")
        let socket = journey.directory.path("cm-\(journey.sshd.port)-\(OpenSSHServer.user)")
        let shared = ["connect", journey.destination, "-S", path] + journey.sshOptions
        let master = try journey.start(shared)
        _ = try await master.standardOutput.line(containing: "path ssh")
        #expect(mode(socket) == 0o600)

        let (bound, kept) = (FreePort.next(), FreePort.next())
        let second = try journey.start(shared + ["-L", "\(bound):localhost:\(backend.port)"])
        let line = try await second.standardOutput.line(containing: "shared with process")
        #expect(line.contains("\(master.pid)") && line.contains("path ssh"))
        _ = try await second.standardOutput.line(containing: "listening 127.0.0.1:\(bound)")
        try await exchange(bound, seed: 1)

        // One stream of standard input and output: the answer comes after the end of what was sent.
        let size = 2_000_000
        let third = try journey.start(shared + ["-W", "localhost:\(sink.port)"], keepsInputOpen: true)
        DispatchQueue.global().async {
            try? third.write(Pattern.bytes(size, seed: 4))
            third.closeInput()
        }
        #expect(try await third.exit() == .exited(0), "\(third.standardError.text)")
        #expect(try await third.standardOutput.complete() == "\(Pattern.checksum(size, seed: 4)) \(size)\n")

        // Nobody has logged in a second time.
        try await journey.sshd.logged("Accepted publickey")
        #expect(journey.sshd.log.components(separatedBy: "Accepted publickey").count == 2)

        let added = try await journey.run(shared + ["-O", "forward", "-L", "\(kept):localhost:\(backend.port)"])
        #expect(added.succeeded, "\(added.standardError)")
        #expect(added.standardOutput.contains("listening 127.0.0.1:\(kept)"))
        try await exchange(kept, seed: 2)
        // As ssh: what is there is not asked for twice, and is there.
        let twice = try await journey.run(shared + ["-O", "forward", "-L", "\(kept):localhost:\(backend.port)"])
        #expect(twice.succeeded, "\(twice.standardError)")
        #expect(twice.standardOutput.contains("listening 127.0.0.1:\(kept)"), "\(twice)")
        let checked = try await journey.run(shared + ["-O", "check"])
        #expect(checked.succeeded, "\(checked.standardError)")
        #expect(checked.standardOutput.contains("Master running (pid=\(master.pid))"))
        #expect(checked.standardOutput.contains("path ssh: in use"), "\(checked)")
        for port in [bound, kept] { #expect(checked.standardOutput.contains("listening 127.0.0.1:\(port)")) }

        // With the second process goes what it had asked for, and nothing else.
        second.signal(SIGTERM)
        #expect(try await second.exit() == .exited(0))
        try await eventually("the second one's port is closed") {
            await (try? TCPConversation(port: bound)) == nil
        }
        try await exchange(kept, seed: 3)
        let cancelled = try await journey.run(shared + ["-O", "cancel", "-L", "\(kept):localhost:\(backend.port)"])
        #expect(cancelled.succeeded, "\(cancelled.standardError)")
        await #expect(throws: (any Error).self) { try await TCPConversation(port: kept) }
        let again = try await journey.run(shared + ["-O", "cancel", "-L", "\(kept):localhost:\(backend.port)"])
        #expect(again.status == .exited(1))
        #expect(again.standardError.contains("there is no such forward"))

        #expect(try await journey.run(shared + ["-O", "exit"]).succeeded)
        #expect(try await master.exit() == .exited(0))
        #expect(!FileManager.default.fileExists(atPath: socket))
        let gone = try await journey.run(shared + ["-O", "check"])
        #expect(gone.status == .exited(1))
        #expect(gone.standardError.contains("no process listens on"))
        await journey.stop()
    }

    /// New streams go on over SSH; those of a node that was killed wait, and that is to be seen.
    @Test func streamsThatWaitAreShown() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        try await journey.makeAuthority()
        let enrolled = try await journey.enroll(allow: backend.port)
        #expect(enrolled.succeeded, "\(enrolled.standardError)")
        let port = FreePort.next()
        let shared = ["connect", "device1", "-S", journey.directory.path("control")]
        let master = try journey.start(shared + ["-L", "\(port):localhost:\(backend.port)"])
        _ = try await master.standardOutput.line(containing: "path h2: ")
        let conversation = try await TCPConversation(port: port)
        #expect(try await conversation.echo([1]) == [1])
        func check() async throws -> String { try await journey.run(shared + ["-O", "check"]).standardOutput }
        #expect(try await !check().contains("wait"))
        kill(try #require(journey.node), SIGKILL)
        try await eventually("the stream waits") {
            try await check().contains("1 stream waits for a path to go on over, 60 s at most")
        }
        await master.stop()
        await journey.stop()
    }

    /// An answer has a line for each forward: more than a client may say.
    @Test func aLongAnswerIsNoEnd() async throws {
        let journey = try await Journey()
        let socket = journey.directory.path("control")
        let shared = ["connect", journey.destination, "-S", socket] + journey.sshOptions
        let places = (0..<250).map { journey.directory.path("forward-\($0)-with-a-name-that-takes-its-room") }
        let master = try journey.start(shared + places.flatMap { ["-L", "\($0):localhost:9"] })
        for place in places { _ = try await master.standardOutput.line(containing: "listening unix:\(place)") }
        let checked = try await journey.run(shared + ["-O", "check"])
        #expect(checked.succeeded, "\(checked.standardError)")
        #expect(checked.standardOutput.utf8.count > 16 << 10)
        for place in places { #expect(checked.standardOutput.contains("listening unix:\(place)")) }
        #expect(try await journey.run(shared + ["-O", "exit"]).succeeded)
        _ = try await master.exit(within: .seconds(60))
    }

    /// A port of the far side is free again once its forward was cancelled, with either engine.
    @Test(arguments: ["libssh2", "openssh"]) func aPortOfTheFarSideIsLetGo(engine: String) async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        let shared =
            ["connect", journey.destination, "--ssh-engine", engine, "-S", journey.directory.path("cm")]
            + journey.sshOptions
        let master = try journey.start(shared)
        _ = try await master.standardOutput.line(containing: "path ssh")
        let far = FreePort.next()
        for seed in 1...2 as ClosedRange<UInt64> {
            // Bound to a process, which ends.
            let second = try journey.start(shared + ["-R", "\(far):localhost:\(backend.port)"])
            _ = try await second.standardOutput.line(containing: "listening localhost:\(far)")
            try await exchange(far, seed: seed)
            second.signal(SIGTERM)
            #expect(try await second.exit() == .exited(0))
            try await eventually("the server lets go of the port") { await (try? TCPConversation(port: far)) == nil }
        }
        // A port that the server chose.
        let added = try await journey.run(shared + ["-O", "forward", "-R", "0:localhost:\(backend.port)"])
        let words = added.standardOutput.split { !$0.isNumber }
        let chosen = try #require(words.first.flatMap { UInt16($0) })
        try await exchange(chosen, seed: 3)
        let cancel = ["-O", "cancel", "-R", "\(chosen):localhost:\(backend.port)"]
        #expect(try await journey.run(shared + cancel).succeeded)
        try await eventually("the server lets go of it") { await (try? TCPConversation(port: chosen)) == nil }
        await master.stop()
        await journey.stop()
    }

    /// What a peer or policy says of a stream is the same, with the same exit code, when another process carries it.
    @Test func aSharedPathHasThePolicyOfTheDevice() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        try await journey.makeAuthority()
        #expect(try await journey.enroll(allow: backend.port).succeeded)
        let socket = journey.directory.path("device1.sock")
        // The device's node speaks plain TCP, whatever is asked for.
        let master = try journey.start(["connect", "device1", "--multipath", "-S", socket])
        _ = try await master.standardOutput.line(containing: "path h2")
        let allowed = try await journey.run(
            ["connect", "device1", "-S", socket, "-W", "localhost:\(backend.port)"],
            input: Array("hello".utf8)
        )
        #expect(allowed.succeeded && allowed.standardOutput == "hello", "\(allowed)")
        let checked = try await journey.run(["connect", "device1", "-S", socket, "-O", "check"])
        #expect(checked.standardOutput.contains("plain TCP"), "\(checked)")
        let refused = try await journey.run(["connect", "device1", "-S", socket, "-W", "localhost:1"], input: [])
        #expect(refused.status == .exited(5), "\(refused)")
        #expect(refused.standardOutput.isEmpty)

        // Paths to somebody else, or other paths than were asked for.
        let other = try await journey.run(
            ["connect", "localhost", "-S", socket, "-W", "localhost:1"] + journey.sshOptions
        )
        #expect(other.status == .exited(2), "\(other)")
        #expect(other.standardError.contains("its paths lead to device1"))
        let onlySSH = try await journey.run(
            ["connect", "device1", "--path", "ssh", "-S", socket, "-W", "localhost:\(backend.port)"]
        )
        #expect(onlySSH.status == .exited(2), "\(onlySSH)")
        #expect(onlySSH.standardError.contains("--path auto"))
        await master.stop()
        await journey.stop()
    }

    /// A killed master: a stream that it carried is no clean end, its socket is in nobody's way, and what had its
    /// forwards from it goes on by itself.
    @Test func aMasterThatIsKilled() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        let socket = journey.directory.path("cm")
        let shared = ["connect", journey.destination, "-S", socket] + journey.sshOptions
        let master = try journey.start(shared)
        _ = try await master.standardOutput.line(containing: "path ssh")
        let port = FreePort.next()
        let second = try journey.start(shared + ["-L", "\(port):localhost:\(backend.port)"])
        _ = try await second.standardOutput.line(containing: "listening 127.0.0.1:\(port)")
        let stream = try journey.start(shared + ["-W", "localhost:\(backend.port)"], keepsInputOpen: true)
        try stream.write("x")
        try await eventually("the stream carries") { stream.standardOutput.text == "x" }
        master.signal(SIGKILL)
        #expect(try await stream.exit() == .exited(1))
        #expect(stream.standardError.text.contains("has ended") || stream.standardError.text.contains("has gone"))
        _ = try await second.standardError.line(containing: "connecting anew")
        do {
            _ = try await second.standardOutput.line(containing: "first path that answered")
        } catch {
            throw DeadlineExceeded("\(error); it said:\n\(second.standardError.text)")
        }
        try await exchange(port, seed: 1)
        // It is the master now.
        let checked = try await journey.run(shared + ["-O", "check"])
        #expect(checked.standardOutput.contains("Master running (pid=\(second.pid))"), "\(checked)")
        // A signal ends it in order still, as before it went on by itself.
        second.signal(SIGTERM)
        #expect(try await second.exit() == .exited(0))
        await journey.stop()
    }

    /// A master that is killed while somebody waits for its first word is as good as none.
    @Test func aMasterThatGoesBeforeItHasSaidAnything() async throws {
        let journey = try await Journey()
        let path = journey.directory.path("cm")
        let listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        let isBound = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(listener, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) == 0
            }
        }
        try #require(isBound && listen(listener, 8) == 0)
        let process = try journey.start(["connect", journey.destination, "-S", path] + journey.sshOptions)
        try await eventually("it waits in the queue") {
            var waiting = pollfd(fd: listener, events: Int16(POLLIN), revents: 0)
            return poll(&waiting, 1, 0) == 1
        }
        close(listener)
        do {
            _ = try await process.standardOutput.line(containing: "first path that answered")
        } catch {
            throw DeadlineExceeded("\(error); it said:\n\(process.standardError.text)")
        }
        await process.stop()
        await journey.stop()
    }

    /// The end of a client that is killed is no end of the stream; that of its input is one.
    @Test(arguments: [true, false]) func aClientThatIsKilledEndsNothingInOrder(isKilled: Bool) async throws {
        let journey = try await Journey()
        let port = FreePort.next()
        try await journey.makeAuthority()
        #expect(try await journey.enroll(allow: port).succeeded)
        let shared = ["connect", "device1", "-S", journey.directory.path("cm")]
        let master = try journey.start(shared)
        _ = try await master.standardOutput.line(containing: "path h2")
        let backend = try ChildProcess(TestTools.python, ["-u", "-c", Self.reader, "\(port)"])
        _ = try await backend.standardOutput.line(containing: "ready")
        let stream = try journey.start(shared + ["-W", "127.0.0.1:\(port)"], keepsInputOpen: true)
        try stream.write("half")
        _ = try await backend.standardOutput.line(containing: "got half")
        if isKilled { stream.signal(SIGKILL) } else { stream.closeInput() }
        _ = try await backend.standardOutput.line(containing: isKilled ? "reset" : "end")
        await master.stop()
        await journey.stop()
    }

    private static let reader = """
        import socket, sys
        server = socket.socket()
        server.bind(('127.0.0.1', int(sys.argv[1])))
        server.listen()
        print('ready')
        client = server.accept()[0]
        print('got', client.recv(10).decode())
        try:
            print('end' if client.recv(10) == b'' else 'more')
        except OSError:
            print('reset')
        """

    /// What belongs to ssh's own master is left to it.
    @Test func anSSHMasterIsLeftAlone() async throws {
        let journey = try await Journey()
        let socket = journey.directory.path("ssh.sock")
        let common = ["-S", socket, "-p", "\(journey.sshd.port)"] + journey.sshOptions
        let ssh = try ChildProcess("ssh", ["-M", "-N"] + common + ["127.0.0.1"])
        try await eventually("ssh listens") { FileManager.default.fileExists(atPath: socket) }
        let refused = try await journey.run(["connect", journey.destination, "-S", socket] + journey.sshOptions)
        #expect(refused.status == .exited(1), "\(refused)")
        #expect(refused.standardError.contains("an ssh master listens there"), "\(refused)")
        let check = try await ChildProcess.run("ssh", ["-O", "check"] + common + ["127.0.0.1"])
        #expect(check.succeeded, "\(check.standardError)")

        // Where both read the same ControlPath, each has its own.
        try journey.directory.write(
            "ssh_config",
            "ControlPath \(socket)\nControlMaster auto\n"
        )
        let beside = try journey.start(["connect", journey.destination, "-N"] + journey.sshOptions)
        _ = try await beside.standardOutput.line(containing: "path ssh")
        #expect(FileManager.default.fileExists(atPath: socket + ".bootstrap"))
        await beside.stop()
        #expect(try await ChildProcess.run("ssh", ["-O", "check"] + common + ["127.0.0.1"]).succeeded)
        await ssh.stop()
        await journey.stop()
    }

    @Test func whatCannotBeIsSaid() async throws {
        let journey = try await Journey()
        try journey.directory.makeDirectory("open", permissions: 0o777)
        try journey.directory.write("file", "text")
        let connect = ["connect", journey.destination, "-N"] + journey.sshOptions
        for (arguments, code, mention) in [
            (["-S", journey.directory.path("open/cm")], 5, "others can write to"),
            (["-S", journey.directory.path("file")], 1, "not a socket"),
            (["-S", journey.directory.path("%Q")], 2, "%Q"),
            (["-M"], 2, "-M needs -S"), (["-O", "check"], 2, "-O check needs -S"),
            (["-O", "forward", "-S", "/x"], 2, "-L, -R and -D"), (["-O", "exit", "-S", "/x", "-f"], 2, "-f"),
            (["-f", "-W", "a:1"], 2, "-W"), (["-o", "ControlMaster=sometimes"], 2, "ControlMaster"),
            (["-o", "ControlPersist=sometimes"], 2, "ControlPersist"),
        ] as [([String], Int32, String)] {
            let output = try await journey.run(connect + arguments)
            #expect(output.status == .exited(code), "\(arguments): \(output)")
            #expect(output.standardError.contains(mention), "\(arguments): \(output)")
        }
        #expect(try journey.directory.read("file") == "text")
        await journey.stop()
    }
}
