import Foundation
import TestPeers
import Testing

/// `exec` and `copy` as people use `ssh` and `scp`.
@Suite(.timeLimit(.minutes(10))) struct ExecTests {
    private func exec(
        _ journey: Journey,
        _ command: [String],
        options: [String] = [],
        input: [UInt8]? = nil
    ) async throws
        -> ChildProcess.Output
    {
        try await journey.run(
            ["exec", journey.destination] + journey.sshOptions + options + ["--"] + command,
            input: input
        )
    }

    // MARK: One machine

    @Test func theStatusIsTheCommandsAndOutputsStayApart() async throws {
        let journey = try await Journey()
        let output = try await exec(journey, ["echo out; echo err >&2; exit 7"])
        #expect(output.standardOutput == "out\n")
        #expect(output.standardError == "err\n")
        #expect(output.status == .exited(7))
        let signalled = try await exec(journey, ["kill -TERM $$"])
        #expect(signalled.status == .exited(255))
        #expect(signalled.standardError.contains("TERM"))
        await journey.stop()
    }

    /// Files that go along change nothing of it; they come back where the command has succeeded.
    @Test func withFilesItIsTheSame() async throws {
        let journey = try await Journey()
        let (sent, back) = (journey.directory.path("sent"), journey.directory.path("back-{name}"))
        let files = ["--put", "/etc/passwd:\(sent)", "--get", "\(sent):\(back)"]
        let failed = try await exec(
            journey,
            ["cat >&2; wc -l <\(sent); exit 7"],
            options: files,
            input: Array("in".utf8)
        )
        #expect(failed.status == .exited(7))
        let lines = try String(contentsOfFile: "/etc/passwd", encoding: .utf8).split(separator: "\n").count
        #expect(failed.standardOutput.filter { !$0.isWhitespace } == "\(lines)" && failed.standardError == "in")
        func cameBack() throws -> Bool {
            try FileManager.default.contentsOfDirectory(atPath: journey.directory.path).contains {
                $0.hasPrefix("back-")
            }
        }
        #expect(try !cameBack())
        let done = try await exec(journey, ["true"], options: files)
        #expect(done.status == .exited(0) && done.standardOutput == "" && done.standardError == "", "\(done)")
        #expect(try cameBack())
        let nothing = try await exec(journey, ["true"], options: ["--get", "/nowhere/x:\(back)"])
        #expect(nothing.status == .exited(1) && nothing.standardError.hasPrefix("error: "), "\(nothing)")
        await journey.stop()
    }

    @Test func inputGoesThereAndItsEndToo() async throws {
        let journey = try await Journey()
        let bytes = Pattern.bytes(3_000_000, seed: 1)
        let expected = Checksum.of(bytes)
        let file = journey.directory.path("copy")
        let sent = try await exec(journey, ["cat >\(file); wc -c <\(file)"], input: bytes)
        #expect(sent.standardOutput.filter(\.isNumber) == "3000000")
        #expect(Checksum.of([UInt8](try Data(contentsOf: URL(filePath: file)))) == expected)
        // Back, without any loss at the end of the output.
        let returned = journey.directory.path("returned")
        let shell = try await ChildProcess.run(
            "/bin/sh",
            ["-c", "\"$@\" >\(returned)", "sh", TestTools.bootstrap, "exec", journey.destination] + journey.sshOptions
                + ["--", "cat", file]
        )
        #expect(shell.succeeded, "\(shell.standardError)")
        #expect(Checksum.of([UInt8](try Data(contentsOf: URL(filePath: returned)))) == expected)
        await journey.stop()
    }

    @Test func aCommandThatReadsNoInputEndsAllTheSame() async throws {
        let journey = try await Journey()
        // The input stays open: only the command's end can end this.
        let process = try journey.start(
            ["exec", journey.destination] + journey.sshOptions + ["--", "echo", "done"],
            keepsInputOpen: true
        )
        #expect(try await process.exit() == .exited(0))
        #expect(try await process.standardOutput.complete() == "done\n")
        // One that stops reading early has not failed.
        let early = try await exec(journey, ["head -c 5"], input: Pattern.bytes(2_000_000, seed: 2))
        #expect(early.status == .exited(0))
        await journey.stop()
    }

    @Test func aReaderThatLeavesEndsTheCommand() async throws {
        let journey = try await Journey()
        let shell = try await ChildProcess.run(
            "/bin/sh",
            ["-c", "\"$@\" | head -n 1", "sh", TestTools.bootstrap, "exec", journey.destination] + journey.sshOptions
                + ["--", "yes"]
        )
        #expect(shell.standardOutput == "y\n")
        await journey.stop()
    }

    @Test func aLostConnectionIsNoSuccess() async throws {
        let journey = try await Journey()
        let process = try journey.start(
            ["exec", journey.destination] + journey.sshOptions + ["--", "echo started; sleep 60"],
            keepsInputOpen: true
        )
        _ = try await process.standardOutput.line(containing: "started")
        journey.sshd.killConnections()
        let status = try await process.exit()
        #expect(status == .exited(1), "\(process.standardError.text)")
        _ = try await process.standardError.line(containing: "error:")
        await journey.stop()
    }

    @Test func exitCodesAreOursWhereThereIsNoCommand() async throws {
        let journey = try await Journey()
        let nobody = try await journey.run(
            ["exec", "\(OpenSSHServer.user)@127.0.0.1:\(FreePort.next())"] + journey.sshOptions + ["--", "true"]
        )
        #expect(nobody.status == .exited(6))
        // A limit that would not hold is refused before anybody logs in.
        let limited = try await journey.run(
            ["exec", journey.destination, "--timeout", "1s", "--put", "/etc/passwd:/tmp/x"] + journey.sshOptions
                + ["--", "true"]
        )
        #expect(limited.status == .exited(2) && limited.standardError.contains("--timeout is for many machines"))
        let nothing = try await journey.run(["exec", journey.destination] + journey.sshOptions)
        #expect(nothing.status == .exited(2))
        #expect(nothing.standardError.contains("after `--`"))
        await journey.stop()
    }

    // MARK: Many machines

    /// Several names of one server, with its default limits.
    private func inventory(_ journey: Journey, _ count: Int) throws -> String {
        try journey.directory.write(
            "hosts",
            (0..<count).map { "\(journey.destination) name\($0)\n" }.joined()
        )
    }

    @Test func aFleetWithFilesThereAndBack() async throws {
        let sshd = try await OpenSSHServer(configuration: ["MaxStartups 10:30:100"])
        let journey = try await Journey(sshd: sshd)
        let bytes = Pattern.bytes(1 << 20, seed: 3)
        try Data(bytes).write(to: URL(filePath: journey.directory.path("blob")))
        for name in ["there", "back"] { try journey.directory.makeDirectory(name, permissions: 0o755) }
        let output = try await journey.run(
            [
                "exec", "--inventory", try inventory(journey, 12), "--parallel", "8",
                "--put", "\(journey.directory.path("blob")):\(journey.directory.path("there"))/{name}",
                "--get", "\(journey.directory.path("there"))/{name}:\(journey.directory.path("back"))/{name}",
            ] + journey.sshOptions + ["--", "uname", "-s"]
        )
        #expect(output.succeeded, "\(output.standardError)")
        let lines = output.standardOutput.split(separator: "\n").map { $0.split(separator: " ") }
        #expect(Set(lines.map { String($0[0]) }) == Set((0..<12).map { "name\($0)" }))
        #expect(lines.allSatisfy { $0.last == "Linux" })
        for index in 0..<12 {
            let back = try Data(contentsOf: URL(filePath: journey.directory.path("back/name\(index)")))
            #expect(Checksum.of([UInt8](back)) == Checksum.of(bytes))
        }
        await journey.stop()
    }

    @Test func oneFailureOfManyIsNamed() async throws {
        let journey = try await Journey()
        try journey.directory.write(
            "hosts",
            "\(journey.destination) good\n\(OpenSSHServer.user)@127.0.0.1:\(FreePort.next()) gone\n"
        )
        let output = try await journey.run(
            ["exec", "--inventory", journey.directory.path("hosts")] + journey.sshOptions + ["--", "echo", "here"]
        )
        #expect(output.status == .exited(6))
        #expect(output.standardOutput == "good  here\n")
        #expect(output.standardError.contains("gone  error: "))
        #expect(output.standardError.contains("1 of 2 failed"))
        await journey.stop()
    }

    // MARK: Files

    @Test(arguments: [true, false])
    func filesAreCopiedWhole(sftp: Bool) async throws {
        let journey = try await Journey(sshd: try await OpenSSHServer(sftp: sftp))
        let bytes = Pattern.bytes(5_000_001, seed: 4)
        let local = journey.directory.path("local")
        try Data(bytes).write(to: URL(filePath: local))
        chmod(local, 0o640)
        // Into a directory, under its own name.
        let home = journey.sshd.directory.path("home")
        let there = try await journey.run(["copy", local, "\(journey.destination):\(home)/"] + journey.sshOptions)
        #expect(there.succeeded, "\(there.standardError)")
        #expect(Checksum.of([UInt8](try Data(contentsOf: URL(filePath: "\(home)/local")))) == Checksum.of(bytes))
        #expect(try FileManager.default.attributesOfItem(atPath: "\(home)/local")[.posixPermissions] as? Int == 0o640)
        try journey.directory.makeDirectory("here", permissions: 0o755)
        let back = try await journey.run(
            ["copy", "\(journey.destination):\(home)/local", journey.directory.path("here")] + journey.sshOptions
        )
        #expect(back.succeeded, "\(back.standardError)")
        let here = try Data(contentsOf: URL(filePath: journey.directory.path("here/local")))
        #expect(Checksum.of([UInt8](here)) == Checksum.of(bytes))
        #expect(try FileManager.default.contentsOfDirectory(atPath: journey.directory.path("here")) == ["local"])
        // Of /proc: no size, and content all the same; an empty file is empty.
        let proc = try await journey.run(
            ["copy", "\(journey.destination):/proc/self/mounts", journey.directory.path("here/mounts")]
                + journey.sshOptions
        )
        #expect(proc.succeeded, "\(proc.standardError)")
        #expect(try journey.directory.read("here/mounts").contains(" / "))
        try Data().write(to: URL(filePath: "\(home)/nothing"))
        let empty = try await journey.run(
            ["copy", "\(journey.destination):\(home)/nothing", journey.directory.path("here/empty")]
                + journey.sshOptions
        )
        #expect(empty.succeeded, "\(empty.standardError)")
        #expect(try journey.directory.read("here/empty").isEmpty)
        await journey.stop()
    }

    @Test(arguments: [true, false])
    func whatCannotBeFetchedLeavesTheTargetAlone(sftp: Bool) async throws {
        let journey = try await Journey(sshd: try await OpenSSHServer(sftp: sftp))
        try journey.directory.makeDirectory("here", permissions: 0o755)
        try journey.directory.write("here/kept", "before")
        let output = try await journey.run(
            ["copy", "\(journey.destination):/nowhere/x", journey.directory.path("here/kept")] + journey.sshOptions
        )
        #expect(output.status == .exited(1))
        #expect(output.standardError.lowercased().contains("no such file"), "\(output.standardError)")
        #expect(try journey.directory.read("here/kept") == "before")
        #expect(try FileManager.default.contentsOfDirectory(atPath: journey.directory.path("here")) == ["kept"])
        await journey.stop()
    }

    @Test(arguments: [
        (["copy", "a", "b"], "DEST:PATH"),
        (["copy", "h:a", "h:b"], "local"),
        (["copy", "does-not-exist", "h:b"], "does-not-exist"),
        (["copy", "h:dir/", "."], "-r"),
        (["copy", "/etc", "h:dir"], "-r"),
        (["copy", "h:a"], "where to"),
    ])
    func copiesThatMakeNoSense(arguments: [String], mention: String) async throws {
        let journey = try await Journey()
        let output = try await journey.run(arguments)
        #expect(output.status == .exited(2))
        #expect(output.standardError.contains(mention), "\(output.standardError)")
        await journey.stop()
    }
}
