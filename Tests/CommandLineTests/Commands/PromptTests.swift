import Foundation
import TestPeers
import Testing

/// A person at a terminal, which Python's pty plays, who does not answer.
@Suite(.timeLimit(.minutes(10))) struct PromptTests {
    /// The options of a login whose key has a passphrase.
    private func protectedKey(_ journey: Journey) async throws -> [String] {
        let key = journey.directory.path("protected")
        for end in ["", ".pub"] {
            try FileManager.default.copyItem(atPath: journey.sshd.userKey + end, toPath: key + end)
        }
        let made = try await ChildProcess.run("ssh-keygen", ["-p", "-P", "", "-N", "secret", "-f", key])
        try #require(made.succeeded, "\(made.standardError)")
        return [
            "-F", journey.directory.path("ssh_config"), "-i", key, "-o", "IdentitiesOnly=yes",
            "-o", "UserKnownHostsFile=\(journey.directory.path("home/.ssh/known_hosts"))",
        ]
    }

    /// As for `ssh`: 130, on a terminal that echoes, and no explanation. With commands that trap signals, and that do
    /// not.
    @Test(arguments: ["exec", "connect", "copy", "enroll"])
    func ctrlCEndsACommandThatAsks(command: String) async throws {
        let journey = try await Journey()
        try await journey.makeAuthority()
        let arguments =
            switch command {
            case "exec": ["exec", journey.destination]
            case "connect": ["connect", journey.destination, "-L", "0:localhost:1"]
            case "copy": ["copy", "/etc/passwd", "\(journey.destination):x"]
            default: ["enroll", journey.destination, "--agent-binary", TestTools.bootstrap]
            }
        let more = command == "exec" ? ["--", "true"] : []
        let output = try await TerminalPerson.play(
            "ctrl-c",
            arguments + (try await protectedKey(journey)) + more,
            journey
        )
        #expect(output.status == .exited(130), "\(output.standardOutput)\(output.standardError)")
        #expect(output.standardOutput.contains("echo before: False"), "\(output.standardOutput)")
        #expect(output.standardOutput.contains("echo after: True"), "\(output.standardOutput)")
        #expect(output.standardOutput.components(separatedBy: "Passphrase for").count == 2, "\(output.standardOutput)")
        #expect(!output.standardOutput.contains("error"), "\(output.standardOutput)")
        await journey.stop()
    }

    @Test(arguments: ["exec", "connect"]) func ctrlCAtTheQuestionForAHostKey(command: String) async throws {
        let journey = try await Journey(knowsHost: false)
        let arguments = command == "exec" ? [] : ["-L", "0:localhost:1"]
        let more = command == "exec" ? ["--", "true"] : []
        let output = try await TerminalPerson.play(
            "ctrl-c",
            [command, journey.destination] + arguments + journey.sshOptions + more,
            journey
        )
        #expect(output.status == .exited(130), "\(output.standardOutput)\(output.standardError)")
        #expect(!output.standardOutput.contains("error"), "\(output.standardOutput)")
        #expect(!journey.sshd.log.contains("Accepted publickey"))
        await journey.stop()
    }

    /// Whatever else ends the process leaves the terminal in order, too, and ends it as it does everywhere.
    @Test(arguments: [("SIGTERM", 15), ("SIGHUP", 1)])
    func aSignalLeavesATerminalThatEchoes(signal: String, number: Int32) async throws {
        let journey = try await Journey()
        let output = try await TerminalPerson.play(
            signal,
            ["exec", journey.destination] + (try await protectedKey(journey)) + ["--", "true"],
            journey
        )
        #expect(output.status == .exited(200 + number), "\(output.standardOutput)\(output.standardError)")
        #expect(output.standardOutput.contains("echo before: False"), "\(output.standardOutput)")
        #expect(output.standardOutput.contains("echo after: True"), "\(output.standardOutput)")
        await journey.stop()
    }
}
