import Foundation
import TestPeers
import Testing

/// Output that cannot be written is an error, whatever the command.
@Suite(.timeLimit(.minutes(10))) struct OutputTests {
    /// Runs the command with its standard output somewhere else.
    private func run(_ arguments: [String], _ journey: Journey, to place: String) async throws -> ChildProcess.Output {
        try await ChildProcess.run(
            "sh",
            ["-c", "exec \"$0\" \"$@\" \(place)", TestTools.bootstrap] + arguments,
            environment: [
                "HOME": journey.home, "BOOTSTRAP_HOME": journey.directory.path("home/.bootstrap"), "SSH_AUTH_SOCK": nil,
            ]
        )
    }

    @Test func everyCommandNoticesThatItsOutputIsLost() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        let node = try journey.directory.write(
            "node.yaml",
            """
            identity: \(TestCertificates.shared.path(.server))
            listeners:
            - {name: out, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "localhost:80"}
            default: direct

            """
        )
        let list = try journey.directory.write("list", "\(journey.destination) one\n")
        let commands: [[String]] = [
            ["--help"], ["--version"], ["connect", "--help"], ["ca", "init", "--trust-domain", "NAME.example"],
            ["status"], ["status", "--output", "json"], ["ca", "bundle"], ["ca", "ssh", "ca", "--host"],
            ["ca", "ssh", "ca"], ["ca", "issue", "--id", "ns/a/sa/b", "--out", "OUT"], ["ca", "rotate", "--status"],
            ["renew", "--due"], ["doctor"], ["node", "--config", node, "--check"],
            ["explain", "--config", node, "--from", "local", "--to", "localhost:80"],
            ["exec"] + journey.sshOptions + [journey.destination, "--", "echo x"],
            ["exec", "--inventory", list] + journey.sshOptions + ["--", "echo x"],
            ["connect", journey.destination, "-W", "127.0.0.1:\(backend.port)"] + journey.sshOptions,
        ]
        for (number, command) in commands.enumerated() {
            func arguments(_ round: Int) -> [String] {
                command.map {
                    $0.replacingOccurrences(of: "OUT", with: journey.directory.path("out\(round)"))
                        .replacingOccurrences(of: "NAME", with: "n\(round)")
                }
            }
            if command.contains("-W") {
                let full = try await run(arguments(0), journey, to: ">/dev/full </etc/hostname")
                #expect(full.status != .exited(0), "\(command)")
                continue
            }
            // The first CA stays: every other one is another directory's.
            let isAuthority = command.prefix(2) == ["ca", "init"]
            let whole = try await run(arguments(1), journey, to: "")
            if isAuthority {
                let home = journey.directory.path("home/.bootstrap")
                try FileManager.default.moveItem(atPath: home, toPath: home + ".whole")
            }
            let full = try await run(arguments(2), journey, to: ">/dev/full")
            let closed = isAuthority || number % 3 == 0 ? full : try await run(arguments(3), journey, to: ">&-")
            #expect(whole.succeeded || command == ["doctor"], "\(command): \(whole.standardError)")
            #expect(!whole.standardOutput.isEmpty, "\(command)")
            for lost in [full, closed] {
                #expect(lost.status != .exited(0), "\(command)")
                #expect(lost.standardError.contains("error: "), "\(command): \(lost.standardError)")
            }
        }
        await journey.stop()
    }
}
