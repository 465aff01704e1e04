import Foundation
import TestPeers
import Testing

/// How `connect` ends when it is told to.
@Suite(.timeLimit(.minutes(10))) struct ConnectSignalTests {
    @Test(arguments: [SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2]) func aSignalEndsItInOrder(
        _ signal: Int32
    ) async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        let port = FreePort.next()
        let connect = try journey.start(
            ["connect", journey.destination, "-L", "\(port):127.0.0.1:\(backend.port)"] + journey.sshOptions
        )
        _ = try await connect.standardOutput.line(containing: "path ssh")
        let conversation = try await TCPConversation(port: port)
        #expect(try await conversation.echo([1]) == [1])
        connect.signal(signal)
        #expect(try await connect.exit() == .exited(0))
        // Nobody takes the end of an open stream for a clean one.
        #expect(try await conversation.end(finishing: false).1 == .broken(ECONNRESET))
        await journey.stop()
    }

    /// So does `nohup bootstrap exec … &`.
    @Test func aCommandOnSeveralMachinesIgnoresWhatItWasStartedToIgnore() async throws {
        let journey = try await Journey()
        let inventory = try journey.directory.write(
            "fleet.yaml",
            "- {host: \"\(journey.destination)\", name: one}\n- {host: \"\(journey.destination)\", name: two}\n"
        )
        let begun = journey.directory.path("begun")
        let exec = try ChildProcess(
            "sh",
            ["-c", "trap '' HUP; exec \"$@\"", "sh", TestTools.bootstrap, "exec", "--inventory", inventory]
                + journey.sshOptions + ["--", "touch \(begun); sleep 2; echo done"],
            environment: ["HOME": journey.home, "BOOTSTRAP_HOME": journey.home + "/.bootstrap", "SSH_AUTH_SOCK": nil]
        )
        try await eventually("the command has begun") { FileManager.default.fileExists(atPath: begun) }
        exec.signal(SIGHUP)
        _ = try await exec.standardOutput.line(containing: "done")
        #expect(try await exec.exit() == .exited(0))
        await journey.stop()
    }

    /// `nohup bootstrap connect … &` outlives the terminal.
    @Test func aSignalThatIsIgnoredStaysIgnored() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        let port = FreePort.next()
        let arguments =
            ["connect", journey.destination, "-L", "\(port):127.0.0.1:\(backend.port)"] + journey.sshOptions
        let connect = try ChildProcess(
            "sh",
            ["-c", "trap '' HUP; exec \"$@\"", "sh", TestTools.bootstrap] + arguments,
            environment: ["HOME": journey.home, "BOOTSTRAP_HOME": journey.home + "/.bootstrap", "SSH_AUTH_SOCK": nil]
        )
        _ = try await connect.standardOutput.line(containing: "path ssh")
        connect.signal(SIGHUP)
        let conversation = try await TCPConversation(port: port)
        #expect(try await conversation.echo([1]) == [1])
        connect.signal(SIGTERM)
        #expect(try await connect.exit() == .exited(0))
        await journey.stop()
    }
}
