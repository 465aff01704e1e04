import Foundation
import TestPeers
import Testing

/// Homes that cannot hold anything, and text that is meant for the terminal.
@Suite(.timeLimit(.minutes(10))) struct OddSurroundingsTests {
    private let directory = TemporaryDirectory()

    private func run(
        _ arguments: [String],
        environment: [String: String?] = [:]
    ) async throws -> ChildProcess.Output {
        try await ChildProcess.run(
            "setsid",
            ["--wait", TestTools.bootstrap] + arguments,
            environment: environment,
            directory: directory.path
        )
    }

    @Test func aHomeOfTheKernelsIsAnError() async throws {
        let output = try await run(
            ["ca", "init", "--trust-domain", "t.example"],
            environment: ["HOME": "/proc", "BOOTSTRAP_HOME": nil]
        )
        #expect(output.status == .exited(1))
        #expect(output.standardError.contains("cannot create /proc/.bootstrap"), "\(output.standardError)")
    }

    @Test func aHomeInADeletedDirectoryIsAnError() async throws {
        let script = "d=$(mktemp -d) && cd \"$d\" && rmdir \"$d\" && exec \"$0\" ca init --trust-domain t.example"
        let output = try await ChildProcess.run(
            "sh",
            ["-c", script, TestTools.bootstrap],
            environment: ["BOOTSTRAP_HOME": "home"]
        )
        #expect(output.status == .exited(1))
        #expect(output.standardError.contains("the working directory takes no new entries"), "\(output.standardError)")
    }

    @Test(arguments: ["", "relative"])
    func anEmptyHomeIsTheAccounts(home: String) async throws {
        let account = try await ChildProcess.run("sh", ["-c", "getent passwd $(id -u) | cut -d: -f6"])
        let own = account.standardOutput.trimmingCharacters(in: .whitespacesAndNewlines)
        let output = try await run(
            ["ca", "bundle"],
            environment: ["HOME": home, "BOOTSTRAP_HOME": nil]
        )
        #expect(!output.succeeded || own == "/root")
        #expect(output.succeeded || output.standardError.contains("\(own)/.bootstrap/ca"), "\(output.standardError)")
    }

    @Test func whatIsPrintedGivesTheTerminalNoOrders() async throws {
        let name = "\u{1B}]0;owned\u{07}\u{9B}2J\u{202E}"
        let explain = ["--from", "local", "--to", "a:1"]
        for arguments in [["explain", "--config", name] + explain, ["node", "--config", name], [name]] {
            let output = try await run(arguments)
            #expect(!output.succeeded)
            #expect(output.standardError.contains("?]0;owned??2J?"), "\(output.standardError.debugDescription)")
            #expect(
                !output.standardError.unicodeScalars.contains { $0 == "\u{1B}" || $0 == "\u{9B}" || $0 == "\u{202E}" }
            )
        }
    }

    @Test func aPassphraseThatOthersCanReadIsRefused() async throws {
        let file = try directory.write("passphrase", "open sesame\n", permissions: 0o640)
        let output = try await run(
            ["ca", "init", "--trust-domain", "t.example", "--passphrase-file", file],
            environment: ["BOOTSTRAP_HOME": directory.path("home")]
        )
        #expect(output.status == .exited(1))
        #expect(output.standardError.contains("chmod 600 \(file)"), "\(output.standardError)")
    }

    /// What holds a key leaves nothing of its memory in a core dump, and `ca serve` nothing to a debugger.
    @Test func aCoreDumpHasNoMemory() async throws {
        let home = ["BOOTSTRAP_HOME": directory.path("home")]
        let made = try await run(["ca", "init", "--trust-domain", "t.example"], environment: home)
        try #require(made.succeeded, "\(made.standardError)")
        let server = try ChildProcess(
            TestTools.bootstrap,
            ["ca", "serve", "--listen", "127.0.0.1:0"],
            environment: home
        )
        _ = try await server.standardOutput.line(containing: "127.0.0.1")
        let limits = try String(contentsOfFile: "/proc/\(server.pid)/limits", encoding: .utf8)
        let core = limits.split(separator: "\n").first { $0.hasPrefix("Max core file size") }
        #expect(core?.split(separator: " ").dropFirst(4).prefix(2) == ["0", "0"], "\(core ?? "")")
        #expect(
            try String(contentsOfFile: "/proc/\(server.pid)/coredump_filter", encoding: .utf8).contains("00000000")
        )
        server.signal(SIGTERM)
        _ = await server.stop()
    }

    /// Of a process that can be looked at, the files in /proc are its user's; otherwise root's.
    @Test(.enabled(if: getuid() == 0)) func whatServesTheAuthorityIsHidden() async throws {
        let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", TestTools.bootstrap]
        try #require(chown(directory.path, 65534, 65534) == 0)
        let home = ["BOOTSTRAP_HOME": directory.path("home"), "HOME": directory.path]
        let made = try await ChildProcess.run(
            "setpriv",
            nobody + ["ca", "init", "--trust-domain", "t.example"],
            environment: home
        )
        try #require(made.succeeded, "\(made.standardError)")
        let server = try ChildProcess(
            "setpriv",
            nobody + ["ca", "serve", "--listen", "127.0.0.1:0"],
            environment: home
        )
        _ = try await server.standardOutput.line(containing: "127.0.0.1")
        var memory = stat()
        try #require(stat("/proc/\(server.pid)/mem", &memory) == 0)
        #expect(memory.st_uid == 0)
        server.signal(SIGTERM)
        _ = await server.stop()
    }
}
