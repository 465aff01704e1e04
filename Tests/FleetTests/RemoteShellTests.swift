import Foundation
import Synchronization
import TestDevices
import TestPeers
import Testing

@testable import Fleet
@testable import SSHSignal

@Suite struct RemoteShellTests {
    let home = TemporaryDirectory()

    private struct Bytes: UploadSequence {
        var rest: [UInt8]
        var pieceLength = 10_000

        mutating func next() -> [UInt8]? {
            guard !rest.isEmpty else { return nil }
            defer { rest.removeFirst(min(pieceLength, rest.count)) }
            return Array(rest.prefix(pieceLength))
        }
    }

    private func error(_ body: () async throws -> Void) async -> SignalError? {
        await #expect(throws: SignalError.self) { try await body() }
    }

    @Test(arguments: FarShell.allCases)
    func blocksRunOneAfterTheOther(kind: FarShell) async throws {
        let channel = try LocalChannel.shell(kind.command, home: home.path)
        defer { channel.close() }
        let shell = RemoteShell(channel, name: "dev")
        let first = try await shell.run("echo a=1; echo 'b=2 = 3'; echo a=9; exit 3", step: "one")
        #expect(first.status == 3)
        #expect(first.values == ["a": "1", "b": "2 = 3"])
        // A command that reads its input gets none of the conversation.
        let second = try await shell.run("cat; wc -c; printf 'x\\033[31my\\n'", step: "two")
        #expect(second.status == 0)
        #expect(second.lines == ["0", "x?[31my"])
    }

    /// What sshd does with an account that has this login shell; those that are not installed are left out.
    @Test(arguments: ["bash", "dash", "fish", "tcsh", "zsh", "ksh"])
    func anyLoginShellStartsIt(login: String) async throws {
        guard try await ChildProcess.run("sh", ["-c", "command -v \(login)"]).succeeded else { return }
        let channel = try LocalChannel(login, ["-c", RemoteShell.command], environment: ["HOME": home.path])
        defer { channel.close() }
        let script = ProbeScript.text(
            bases: ["~"],
            release: "0.1.0-abc",
            interpreter: nil,
            libraries: [],
            libraryPaths: []
        )
        let facts = try DeviceFacts(try await RemoteShell(channel, name: "dev").run(script, step: "probe"), name: "dev")
        #expect(facts.bases.first?.isExecutable == true)
    }

    /// A named pipe would be read until the step's time is over.
    @Test func onlyRegularFilesAreRead() async throws {
        let channel = try LocalChannel.shell(FarShell.allCases[0].command, home: home.path)
        defer { channel.close() }
        let shell = RemoteShell(channel, name: "dev")
        try home.makeDirectory("identity", permissions: 0o700)
        try home.makeDirectory("state", permissions: 0o700)
        for name in ["identity/ca-crl.pem", "identity/cert-chain.pem", "state/node.pid"] {
            try #require(mkfifo(home.path(name), 0o600) == 0)
        }
        #expect(try await shell.revocationLists(in: home.path("identity")) { _ in } == nil)
        #expect(try await shell.presentIdentity(in: home.path("identity")) == nil)
        // The conversation goes on.
        #expect(try await shell.run("echo a=1", step: "after").values == ["a": "1"])
        var record = try DeviceDirectoryTests.record("dev")
        record.agent.state = home.path("state")
        try home.makeDirectory("state/identity", permissions: 0o700)
        try #require(mkfifo(home.path("state/identity/cert-chain.pem"), 0o600) == 0)
        let output = try await shell.run(DeviceReading.script(record), step: "reading")
        let reading = try DeviceReading(output, record, asked: 0, answered: 0)
        #expect(reading.problem?.contains("is no regular file") == true && reading.runsNode == false)
    }

    /// What the agent says of its node's files; one that does not know the question has said nothing of them.
    @Test(arguments: FarShell.allCases) func theAgentIsAskedWhetherItsNodeCanStart(shell far: FarShell) async throws {
        let channel = try LocalChannel.shell(far.command, home: home.path)
        defer { channel.close() }
        let shell = RemoteShell(channel, name: "dev")
        var record = try DeviceDirectoryTests.record("dev")
        record.agent.path = home.path("root/1-a/bootstrap")
        record.agent.state = home.path("root/state")
        try home.makeDirectory("root/current", permissions: 0o755)
        try home.write("root/state/node.yaml", "identity: i\n")
        func said() async throws -> String? {
            let output = try await shell.run(DeviceReading.script(record), step: "reading")
            return try DeviceReading(output, record, asked: 0, answered: 0).fault
        }
        #expect(try await said() == nil, "no agent is there")
        for (line, fault) in [
            ("[ \"$*\" = 'node --check --config \(home.path("root/state/node.yaml"))' ] || exit 2; echo fine", nil),
            ("echo \"error: Unknown option '--check'\" >&2; exit 2", nil),
            ("echo 'error: n.yaml:2:1: first' >&2; echo second >&2; cat; exit 2", "n.yaml:2:1: first; second"),
            ("kill -9 $$", nil),
        ] as [(String, String?)] {
            try await home.writeProgram("root/current/bootstrap", line)
            #expect(try await said() == fault, "\(line)")
        }
    }

    /// What the node's configuration and log say of gateways, by whichever shell reads it.
    @Test(arguments: FarShell.allCases) func theGatewaysOfANodeAreRead(shell far: FarShell) async throws {
        let channel = try LocalChannel.shell(far.command, home: home.path)
        defer { channel.close() }
        var record = try DeviceDirectoryTests.record("dev")
        record.agent.state = home.path("state")
        try home.makeDirectory("state", permissions: 0o700)
        try home.write("state/node.pid", "\(getpid())\n")
        try home.write("state/node.yaml", "identity: i\nreverse:\n- {gateway: \"gw:1\"}\n- {gateway: \"gw:2\"}\n")
        func line(_ message: String) -> String { "T notice bootstrap: reason=why [MeshPaths] \(message)\n" }
        try home.write("state/node.log.1", line("reachable through the gateway gw:1") + "more\n")
        try home.write("state/node.log", line("no connection to the gateway gw:2") + line("else"))
        let output = try await RemoteShell(channel, name: "dev").run(DeviceReading.script(record), step: "reading")
        let reading = try DeviceReading(output, record, asked: 0, answered: 0)
        #expect(reading.gateways.map(\.address) == ["gw:1", "gw:2"] && reading.gateways.map(\.state) == [.up, .down])
        #expect(reading.gateways.last?.reason == "why")
    }

    /// A device that answers with less than any file has: it gets no answer of ours, and no more than that.
    @Test func aBlockWithoutItsEndIsNoFile() async throws {
        let file = try home.write("list.pem", "\n")
        // An echo that leaves the stroke out.
        let channel = try LocalChannel(
            "bash",
            ["-s"],
            environment: ["HOME": home.path, "BASH_FUNC_echo%%": "() { [ \"$1\" = '|' ] || builtin echo \"$@\"; }"]
        )
        defer { channel.close() }
        let shell = RemoteShell(channel, name: "dev")
        #expect(try await shell.run("echo 'line:'; echo '|'", step: "echo").lines == ["line:"])
        #expect(try await shell.text(of: file, limit: 1 << 20, step: "list") == nil)
    }

    /// A file that is longer than one block, where there is no time for the next: a beginning is not the whole.
    @Test func aFileThatWasNotReadInTimeIsNotWhole() async throws {
        let text = String(repeating: "0123456789abcdef\n", count: 20_000)
        let file = try home.write("identity/ca-crl.pem", text)
        let channel = try LocalChannel.shell(FarShell.allCases[0].command, home: home.path)
        defer { channel.close() }
        let shell = RemoteShell(channel, name: "dev")
        let whole = try #require(try await shell.text(of: file, limit: 1 << 20, step: "list"))
        #expect(!whole.isCut && whole.bytes.elementsEqual(text.utf8))
        let part = try #require(try await shell.text(of: file, limit: 1 << 20, step: "list", within: .zero))
        #expect(part.isCut && part.bytes.elementsEqual(text.utf8.prefix(192 << 10)))
        let said = Mutex(0)
        let lists = try await shell.revocationLists(in: home.path("identity"), within: .zero) { _ in
            said.withLock { $0 += 1 }
        }
        #expect(lists == nil)
        let count = said.withLock { $0 }
        #expect(count == 1)
    }

    /// Blocks end within lines, and on their ends; nothing is lost or added between two. What is before a block is not
    /// read once more, which would take a long list many times.
    @Test(arguments: FarShell.allCases, [0, 1, 17, 4096])
    func aLongFileIsReadOnce(kind: FarShell, more: Int) async throws {
        var text = ""
        let size = 3 * (192 << 10) + more
        for line in 0..<size where text.utf8.count < size { text += String(repeating: "x", count: line % 65) + "\n" }
        text = String(text.prefix(size))
        let file = try home.write("list.pem", text)
        // What the shell's tools are given to read.
        try home.makeDirectory("tools")
        for tool in ["sed", "dd"] {
            try await home.writeProgram("tools/\(tool)", Self.counting(tool, file, home.path("read")))
        }
        let channel = try LocalChannel.shell(
            kind.command,
            home: home.path,
            setup: "export PATH='\(home.path("tools"))':\"$PATH\""
        )
        defer { channel.close() }
        let read = try #require(
            try await RemoteShell(channel, name: "dev").text(of: file, limit: 1 << 24, step: "list")
        )
        #expect(!read.isCut && read.bytes == Array(text.utf8))
        // busybox has its own.
        guard kind != .busybox else { return }
        let lines = try home.read("read").split(separator: "\n")
        #expect(lines.allSatisfy { $0 == "dd" }, "the whole file, for each block: \(lines)")
    }

    /// A program that says whether it was given the file whole.
    private static func counting(_ tool: String, _ file: String, _ log: String) -> String {
        """
        for last in "$@"; do [ "$last" = '\(file)' ] && echo whole >>'\(log)'; done
        [ \(tool) = dd ] && echo dd >>'\(log)'
        PATH="${PATH#*:}"; exec \(tool) "$@"
        """
    }

    /// Each piece moves in its time, and all of them together take for ever.
    @Test(.timeLimit(.minutes(10))) func anUploadHasATotalLimit() async throws {
        let channel = StalledChannel(try LocalChannel.shell(FarShell.dash.command, home: home.path))
        defer { channel.close() }
        let limits = RemoteShell.UploadLimits(step: .seconds(3600), total: .seconds(1), bytesPerSecond: 1 << 30)
        let shell = RemoteShell(channel, name: "dev", uploadLimits: limits)
        let error = await error {
            _ = try await shell.run(
                "echo \"$ready\"; cat >/dev/null",
                sending: Bytes(rest: [UInt8](repeating: 7, count: 100_000)),
                step: "upload",
                progress: { _ in }
            )
        }
        #expect(error?.code == .timedOut, "\(error?.message ?? "")")
    }

    /// Takes the script, and of what follows nothing more, until it is closed.
    private final class StalledChannel: RemoteChannel {
        private let channel: LocalChannel
        private let script = Atomic(true)
        private let (closed, end) = AsyncStream<Never>.makeStream()

        init(_ channel: LocalChannel) { self.channel = channel }

        func read() async throws -> [UInt8]? { try await channel.read() }
        func write(_ bytes: [UInt8]) async throws {
            if script.exchange(false, ordering: .relaxed) { return try await channel.write(bytes) }
            for await _ in closed {}
            throw DeadlineExceeded("the channel is closed")
        }
        func finish() async { await channel.finish() }
        func close() {
            end.finish()
            channel.close()
        }
        func standardErrorText() async -> String { await channel.standardErrorText() }
    }

    @Test(arguments: FarShell.allCases)
    func uploadArrivesAsItWasSent(kind: FarShell) async throws {
        let channel = try LocalChannel.shell(kind.command, home: home.path)
        defer { channel.close() }
        let shell = RemoteShell(channel, name: "dev")
        // Text that would do harm, were it taken for commands, and every byte there is.
        let payload =
            Array("exit 1\n}\ntouch \(home.path)/harm\n".utf8)
            + (0..<300_000).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        let progress = Mutex<[Int]>([])
        let output = try await shell.run(
            "echo \"$ready\"; head -c \(payload.count) >\(home.path)/file",
            sending: Bytes(rest: payload),
            step: "upload",
            progress: { count in progress.withLock { $0.append(count) } }
        )
        #expect(output.status == 0)
        #expect(Array(try Data(contentsOf: URL(fileURLWithPath: home.path("file")))) == payload)
        #expect(progress.withLock { $0.last } == payload.count)
        // The shell is still there for the next block, and nothing was run.
        #expect(try await shell.run("echo on=1", step: "next").values == ["on": "1"])
        #expect(!FileManager.default.fileExists(atPath: home.path("harm")))
    }

    @Test(arguments: FarShell.allCases)
    func refusedUploadIsNeverRun(kind: FarShell) async throws {
        let channel = try LocalChannel.shell(kind.command, home: home.path)
        defer { channel.close() }
        let shell = RemoteShell(channel, name: "dev")
        let payload = Array(String(repeating: "touch \(home.path)/harm\n", count: 40_000).utf8)
        // Reads a part, then gives up, as when the disk is full.
        let output = try await shell.run(
            "echo \"$ready\"; head -c 1000 >/dev/null; echo error=full; exit 1",
            sending: Bytes(rest: payload),
            step: "upload",
            progress: { _ in }
        )
        #expect(output.status == 1)
        #expect(output.values["error"] == "full")
        try await eventually("the shell ends") { !channel.process.isRunning }
        #expect(!FileManager.default.fileExists(atPath: home.path("harm")))
    }

    @Test func refusalBeforeTheUploadSendsNothing() async throws {
        let channel = try LocalChannel.shell(["dash"], home: home.path)
        defer { channel.close() }
        let sent = Mutex(0)
        let output = try await RemoteShell(channel, name: "dev").run(
            "echo error=no; exit 1",
            sending: Bytes(rest: [1, 2, 3]),
            step: "upload",
            progress: { count in sent.withLock { $0 = count } }
        )
        #expect(output.status == 1)
        #expect(sent.withLock { $0 } == 0)
    }

    @Test func noiseBeforeTheShellIsSkipped() async throws {
        let channel = try LocalChannel("sh", ["-c", "echo Welcome; printf 'no newline'; exec sh -s"])
        defer { channel.close() }
        #expect(try await RemoteShell(channel, name: "dev").run("echo a=1", step: "x").values == ["a": "1"])
    }

    @Test(arguments: [
        (["cat"], "nothing"),
        (["sh", "-c", "echo 'This account is \u{1B}[5mnot available.'; exit 1"], "This account is ?[5mnot available."),
        (["sh", "-c", "echo denied >&2; exit 1"], "denied"),
    ])
    func noShell(command: [String], said: String) async throws {
        let channel = try LocalChannel(command[0], Array(command.dropFirst()))
        // An echo would go on for ever; it ends with its input.
        let shell = RemoteShell(channel, name: "dev")
        let error = await error {
            if command == ["cat"] {
                _ = try await shell.run("echo a", step: "x", timeout: .milliseconds(500))
            } else {
                _ = try await shell.run("echo a", step: "x")
            }
        }
        if command == ["cat"] {
            #expect(error?.code == .timedOut)
        } else {
            #expect(error?.code == .refused)
            #expect(error?.message.contains("ForceCommand") == true)
            #expect(error?.message.contains(said) == true, "\(error?.message ?? "")")
        }
    }

    @Test func endlessOutputIsCut() async throws {
        // More than the limits, and not so much that this test keeps gigabytes.
        let flood = "yes | head -c 1000000"
        for command in [["-c", flood], ["-s"]] {
            let channel = try LocalChannel("sh", command)
            let error = await error { _ = try await RemoteShell(channel, name: "dev").run(flood, step: "x") }
            #expect(error?.code == .tooLong)
            try await eventually("the far side ends") { !channel.process.isRunning }
        }
    }

    @Test func silenceIsCut() async throws {
        let channel = try LocalChannel.shell(["dash"], home: home.path)
        let error = await error {
            _ = try await RemoteShell(channel, name: "dev").run("sleep 100", step: "probe", timeout: .milliseconds(300))
        }
        #expect(error?.code == .timedOut)
        #expect(error?.message.contains("dev: probe") == true)
    }

    @Test func cutInABlockSaysSo() async throws {
        let channel = try LocalChannel.shell(["dash"], home: home.path)
        let error = await error { _ = try await RemoteShell(channel, name: "dev").run("kill -9 $$", step: "probe") }
        #expect(error?.code == .truncated)
    }
}
