import Foundation
import TestPeers
import Testing

/// `ControlPersist`: paths that stay in the background for the commands that follow.
@Suite(.timeLimit(.minutes(10))) struct ConnectPersistTests {
    private func exchange(_ port: UInt16, seed: UInt64) async throws {
        let sent = Pattern.bytes(100_000, seed: seed)
        let (received, ending) = try await TCPClient.exchange(port: port, sending: sent)
        #expect(ending == .endOfStream)
        #expect(Checksum.of(received) == Checksum.of(sent))
    }

    /// The process that listens on the control socket, which says so.
    private func master(_ journey: Journey, _ shared: [String]) async throws -> Int32 {
        let checked = try await journey.run(shared + ["-O", "check"])
        #expect(checked.succeeded, "\(checked)")
        let words = checked.standardOutput.split { !$0.isNumber }
        return try #require(words.first.flatMap { Int32($0) })
    }

    private func isRunning(_ pid: Int32) -> Bool { kill(pid, 0) == 0 }

    @Test func thePathsOfOneStreamAreThereForTheNext() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        let socket = journey.directory.path("cm")
        let shared =
            ["connect", journey.destination, "-S", socket, "-o", "ControlPersist=yes"] + journey.sshOptions
        // Whoever reads its output is not kept waiting by the process that stays.
        for text in ["one", "two"] {
            let output = try await journey.run(
                shared + ["-W", "localhost:\(backend.port)"],
                input: Array(text.utf8)
            )
            #expect(output.succeeded && output.standardOutput == text, "\(output)")
        }
        let pid = try await master(journey, shared)
        // In a session of its own, without the terminal.
        #expect(getsid(pid) == pid)
        try await journey.sshd.logged("Accepted publickey")
        #expect(journey.sshd.log.components(separatedBy: "Accepted publickey").count == 2)

        // A forward lasts as long as the command that has asked for it, and the paths stay.
        let port = FreePort.next()
        let forward = try journey.start(shared + ["-L", "\(port):localhost:\(backend.port)"])
        let line = try await forward.standardOutput.line(containing: "shared with process")
        #expect(line.contains("\(pid)"), "\(line)")
        _ = try await forward.standardOutput.line(containing: "listening 127.0.0.1:\(port)")
        try await exchange(port, seed: 1)
        forward.signal(SIGTERM)
        #expect(try await forward.exit() == .exited(0))
        try await eventually("its port is closed") { await (try? TCPConversation(port: port)) == nil }
        #expect(try await master(journey, shared) == pid)

        // With nothing to do in the foreground there is nothing to wait for.
        let nothing = try await journey.run(shared + ["-N"])
        #expect(nothing.succeeded, "\(nothing)")
        #expect(try await master(journey, shared) == pid)
        #expect(try await journey.run(shared + ["-O", "exit"]).succeeded)
        try await eventually("it has ended") { !isRunning(pid) }
        #expect(!FileManager.default.fileExists(atPath: socket))
        await journey.stop()
    }

    /// A time counts from the last use on, and is none as long as somebody has a stream.
    @Test func itEndsWhenNobodyHasUsedItForThatLong() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        let shared = { (name: String) in
            ["connect", journey.destination, "-S", journey.directory.path(name), "-o", "ControlPersist=1"]
                + journey.sshOptions
        }
        let stream = try journey.start(shared("used") + ["-W", "localhost:\(backend.port)"], keepsInputOpen: true)
        try stream.write("x")
        try await eventually("the stream carries") { stream.standardOutput.text == "x" }
        let used = try await master(journey, shared("used"))
        let checked = try await journey.run(shared("used") + ["-O", "check"])
        #expect(checked.standardOutput.contains("nobody has used it for 1 s"), "\(checked)")
        // The next one begins later, nobody uses it, and it has the same time.
        #expect(try await journey.run(shared("unused") + ["-N"]).succeeded)
        let unused = journey.directory.path("unused")
        try await eventually("the unused one has ended") { !FileManager.default.fileExists(atPath: unused) }
        #expect(isRunning(used))
        try stream.write("y")
        try await eventually("the stream still carries") { stream.standardOutput.text == "xy" }
        stream.closeInput()
        #expect(try await stream.exit() == .exited(0))
        try await eventually("the other one has ended, too") { !isRunning(used) }
        await journey.stop()
    }

    /// `-f` leaves the forwards to the process that stays, as without the option, and they go with it.
    @Test func aTimeCountsForWhatWentToTheBackgroundToo() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        let port = FreePort.next()
        let socket = journey.directory.path("cm")
        let shared = ["connect", journey.destination, "-S", socket, "-o", "ControlPersist=15"] + journey.sshOptions
        async let starting = journey.run(shared + ["-f", "-L", "\(port):localhost:\(backend.port)"])
        // As soon as it listens: the time begins before the command has ended.
        var first: TCPConversation?
        try await eventually("it listens") {
            first = try? await TCPConversation(port: port)
            return first != nil
        }
        let conversation = try #require(first)
        let started = try await starting
        #expect(started.succeeded, "\(started)")
        #expect(try await conversation.echo(Array("x".utf8)) == Array("x".utf8))
        let pid = try await master(journey, shared)
        _ = try await conversation.end()
        try await eventually("it has ended") { !isRunning(pid) }
        await #expect(throws: (any Error).self) { try await TCPConversation(port: port) }
        await journey.stop()
    }

    /// What it was killed with: who had a forward from it starts the next one.
    @Test func aKilledOneIsStartedAnew() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        let shared =
            ["connect", journey.destination, "-S", journey.directory.path("cm"), "-o", "ControlPersist=yes"]
            + journey.sshOptions
        let port = FreePort.next()
        let forward = try journey.start(shared + ["-L", "\(port):localhost:\(backend.port)"])
        _ = try await forward.standardOutput.line(containing: "listening 127.0.0.1:\(port)")
        let first = try await master(journey, shared)
        kill(first, SIGKILL)
        _ = try await forward.standardError.line(containing: "connecting anew")
        try await eventually("it listens again") { await (try? TCPConversation(port: port)) != nil }
        try await exchange(port, seed: 1)
        let second = try await master(journey, shared)
        #expect(second != first && second != forward.pid)
        forward.signal(SIGTERM)
        #expect(try await forward.exit() == .exited(0))
        #expect(try await journey.run(shared + ["-O", "exit"]).succeeded)
        try await eventually("it has ended") { !isRunning(second) }
        await journey.stop()
    }

    @Test func theExitCodeSaysWhyThereAreNoPaths() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        let persist = ["-S", journey.directory.path("cm"), "-o", "ControlPersist=5m"]
        let unreachable = try await journey.run(
            ["connect", "\(OpenSSHServer.user)@127.0.0.1:\(FreePort.next())", "-W", "a:1"] + persist
                + journey.sshOptions
        )
        #expect(unreachable.status == .exited(6), "\(unreachable)")
        #expect(unreachable.standardOutput.isEmpty)
        // Without a path for the socket there is nothing to share, and with ControlMaster=no nobody listens: as ssh.
        for options in [["-o", "ControlPersist=5m"], persist + ["-o", "ControlMaster=no"]] {
            let alone = try await journey.run(
                ["connect", journey.destination, "-W", "localhost:\(backend.port)"] + options + journey.sshOptions,
                input: Array("x".utf8)
            )
            #expect(alone.succeeded && alone.standardOutput == "x", "\(alone)")
            #expect(!FileManager.default.fileExists(atPath: journey.directory.path("cm")))
        }
        await journey.stop()
    }
}
