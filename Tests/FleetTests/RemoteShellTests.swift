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

    /// A file that is longer than one block, where there is no time for the next: a beginning is not the whole.
    @Test func aFileThatWasNotReadInTimeIsNotWhole() async throws {
        let text = String(repeating: "0123456789abcdef\n", count: 3001)
        let file = try home.write("identity/ca-crl.pem", text)
        let channel = try LocalChannel.shell(FarShell.allCases[0].command, home: home.path)
        defer { channel.close() }
        let shell = RemoteShell(channel, name: "dev")
        let whole = try #require(try await shell.text(of: file, limit: 1 << 20, step: "list"))
        #expect(!whole.isCut && whole.bytes.elementsEqual(text.utf8))
        let part = try #require(try await shell.text(of: file, limit: 1 << 20, step: "list", within: .zero))
        #expect(part.isCut && part.bytes.count == 3000 * 17)
        let said = Mutex(0)
        let lists = try await shell.revocationLists(in: home.path("identity"), within: .zero) { _ in
            said.withLock { $0 += 1 }
        }
        #expect(lists == nil)
        let count = said.withLock { $0 }
        #expect(count == 1)
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
