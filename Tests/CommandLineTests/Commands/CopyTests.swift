import Foundation
import TestPeers
import Testing

/// `copy` does with files what scp does, with SFTP on the far side and without.
@Suite(.timeLimit(.minutes(10))) struct CopyTests {
    /// A machine, files of the operator in `here`, and a directory `there`.
    private func start(sftp: Bool) async throws -> Journey {
        let journey = try await Journey(sshd: try await OpenSSHServer(sftp: sftp))
        for name in ["here", "there"] { try journey.directory.makeDirectory(name, permissions: 0o755) }
        return journey
    }

    private func copy(
        _ arguments: [String],
        _ journey: Journey,
        _ status: Int32 = 0
    ) async throws -> ChildProcess.Output {
        let output = try await journey.run(["copy"] + arguments + journey.sshOptions)
        #expect(output.status == .exited(status), "\(arguments): \(output.standardError)")
        return output
    }

    private func remote(_ path: String, _ journey: Journey) -> String {
        "\(journey.destination):\(journey.directory.path("there/" + path))"
    }

    private func facts(_ path: String) throws -> String {
        var status = stat()
        try #require(lstat(path, &status) == 0, "\(path)")
        return "\(status.st_uid):\(status.st_gid) \(String(status.st_mode, radix: 8)) \(status.st_nlink)"
    }

    /// A private file stays private on its way back; new ones have their source's permissions less the umask.
    @Test(arguments: [true, false]) func permissionsAreThoseOfTheSource(sftp: Bool) async throws {
        let journey = try await start(sftp: sftp)
        for (mode, expected) in [(0o600, "100600"), (0o755, "100755"), (0o666, "100644")] as [(UInt32, String)] {
            let name = "file\(mode)"
            try journey.directory.write("here/\(name)", "content", permissions: mode)
            chmod(journey.directory.path("here/\(name)"), mode)
            _ = try await copy([journey.directory.path("here/\(name)"), remote("", journey)], journey)
            #expect(try facts(journey.directory.path("there/\(name)")) == "0:0 \(expected) 1")
            let back = journey.directory.path("here/back")
            _ = try await copy([remote(name, journey), back], journey)
            #expect(try facts(back) == "0:0 \(expected) 1")
            unlink(back)
        }
        await journey.stop()
    }

    /// What is there keeps its owner, its permissions, its other names and its kind, on either side.
    @Test(arguments: [true, false]) func whatIsThereStaysWhatItIs(sftp: Bool) async throws {
        let journey = try await start(sftp: sftp)
        let source = try journey.directory.write("here/source", "new")
        for side in ["there", "here"] {
            func path(_ name: String) -> String { journey.directory.path("\(side)/\(name)") }
            func give(_ name: String) async throws {
                let target = "\(journey.destination):\(path(name))"
                let there = "\(journey.destination):\(source)"
                _ = try await copy(side == "there" ? [source, target] : [there, path(name)], journey)
            }
            try journey.directory.write("\(side)/owned", "old")
            chmod(path("owned"), 0o640)
            chown(path("owned"), 1, 2)
            try journey.directory.write("\(side)/private", "old")
            chmod(path("private"), 0o600)
            try journey.directory.write("\(side)/linked", "old")
            link(path("linked"), path("second name"))
            try journey.directory.write("\(side)/real", "old")
            symlink("real", path("link"))
            symlink("made", path("dangling"))
            try #require(mknod(path("null"), S_IFCHR | 0o666, 0x103) == 0)
            chmod(path("null"), 0o666)
            // SFTP does not tell how many names a file has.
            let names = ["owned", "private", "link", "dangling", "null"] + (sftp && side == "there" ? [] : ["linked"])
            for name in names {
                let before = try facts(path(name))
                try await give(name)
                #expect(try facts(path(name)) == before, "\(side)/\(name)")
                guard name != "null" else { continue }
                #expect(try String(contentsOfFile: path(name), encoding: .utf8) == "new", "\(side)/\(name)")
            }
            #expect(try String(contentsOfFile: path("real"), encoding: .utf8) == "new")
            #expect(try String(contentsOfFile: path("made"), encoding: .utf8) == "new")
            let left = try FileManager.default.contentsOfDirectory(atPath: journey.directory.path(side)).sorted()
            #expect(left.filter { $0.contains("part") }.isEmpty, "\(left)")
        }
        await journey.stop()
    }

    /// A directory takes files under their own names; a directory of the same name is not confused with it.
    @Test(arguments: [true, false]) func directoriesTakeFilesUnderTheirNames(sftp: Bool) async throws {
        let journey = try await start(sftp: sftp)
        try journey.directory.write("here/app.conf", "content")
        let source = journey.directory.path("here/app.conf")
        let into = "\(journey.destination):\(journey.directory.path("there"))"
        _ = try await copy([source, into], journey)
        #expect(try journey.directory.read("there/app.conf") == "content")
        try journey.directory.makeDirectory("there/name/app.conf", permissions: 0o755)
        let taken = try await copy([source, remote("name", journey)], journey, 1)
        #expect(taken.standardError.contains("is a directory"), "\(taken.standardError)")
        let absent = try await copy([source, remote("absent/", journey)], journey, 2)
        #expect(absent.standardError.contains("not a directory"), "\(absent.standardError)")
        let left = FileManager.default.enumerator(atPath: journey.directory.path("there"))?.compactMap { "\($0)" }
        #expect(left?.sorted() == ["app.conf", "name", "name/app.conf"])
        await journey.stop()
    }

    /// Trees, several sources, and patterns that stand for names there.
    @Test(arguments: [true, false]) func treesAndPatterns(sftp: Bool) async throws {
        let journey = try await start(sftp: sftp)
        let odd = "it's a *new*\nname"
        try journey.directory.makeDirectory("here/site/sub", permissions: 0o750)
        for name in ["site/index", "site/sub/.hidden", "site/sub/\(odd)", "a.log", "b.log", "c.txt"] {
            try journey.directory.write("here/\(name)", name)
        }
        symlink("index", journey.directory.path("here/site/link"))
        _ = try await copy(["-r", journey.directory.path("here/site"), remote("copied", journey)], journey)
        _ = try await copy(["-r", journey.directory.path("here/site"), remote("", journey)], journey)
        for root in ["copied", "site"] {
            for (name, content) in [
                ("index", "site/index"), ("link", "site/index"), ("sub/.hidden", "site/sub/.hidden"),
                ("sub/\(odd)", "site/sub/\(odd)"),
            ] {
                #expect(try journey.directory.read("there/\(root)/\(name)") == content)
            }
            #expect(try facts(journey.directory.path("there/\(root)/sub")).contains(" 40750 "))
        }
        let logs = ["a.log", "b.log", "c.txt"].map { journey.directory.path("here/\($0)") }
        _ = try await copy(logs + [remote("", journey)], journey)

        try journey.directory.makeDirectory("back", permissions: 0o755)
        let back = journey.directory.path("back")
        _ = try await copy([remote("*.log", journey), remote("s?te/ind[e]x", journey), back], journey)
        #expect(try FileManager.default.contentsOfDirectory(atPath: back).sorted() == ["a.log", "b.log", "index"])
        _ = try await copy(["-r", remote("site", journey), back + "/tree"], journey)
        #expect(try journey.directory.read("back/tree/sub/\(odd)") == "site/sub/\(odd)")
        #expect(try facts(back + "/tree/sub").contains(" 40750 "))

        // One that fails does not stop the others.
        let some = try await copy([remote("none", journey), remote("c.txt", journey), back], journey, 1)
        #expect(some.standardError.contains("no such file"), "\(some.standardError)")
        #expect(try journey.directory.read("back/c.txt") == "c.txt")
        let none = try await copy([remote("*.nothing", journey), back], journey, 1)
        #expect(none.standardError.contains("*.nothing"), "\(none.standardError)")
        let flat = try await copy([remote("site", journey), back], journey, 1)
        #expect(flat.standardError.contains("-r"), "\(flat.standardError)")
        await journey.stop()
    }

    /// Nor does a machine that fails.
    @Test func oneMachineDoesNotStopTheOthers() async throws {
        let journey = try await start(sftp: true)
        try journey.directory.write("there/file", "content")
        let here = journey.directory.path("here")
        let nobody = "\(OpenSSHServer.user)@127.0.0.1:\(FreePort.next()):/none"
        let output = try await copy([nobody, remote("file", journey), here], journey, 6)
        #expect(output.standardError.contains("error: "), "\(output.standardError)")
        #expect(try journey.directory.read("here/file") == "content")
        await journey.stop()
    }

    /// A pipe would be waited for, and some devices never end: they are named, and the others come.
    @Test(arguments: [true, false]) func whatIsNoFileIsRefused(sftp: Bool) async throws {
        let journey = try await start(sftp: sftp)
        try journey.directory.makeDirectory("there/tree", permissions: 0o755)
        try #require(mkfifo(journey.directory.path("there/tree/a-pipe"), 0o666) == 0)
        symlink("a-pipe", journey.directory.path("there/tree/b-link"))
        try journey.directory.write("there/tree/file", "content", permissions: 0o644)
        let tree = try await copy(["-r", remote("tree", journey), journey.directory.path("here")], journey, 1)
        for name in ["a-pipe", "b-link"] {
            #expect(tree.standardError.contains("/tree/\(name) is not a regular file"), "\(tree.standardError)")
            #expect(!FileManager.default.fileExists(atPath: journey.directory.path("here/tree/\(name)")))
        }
        #expect(try journey.directory.read("here/tree/file") == "content")
        let target = journey.directory.path("here/zero")
        let device = try await copy(["\(journey.destination):/dev/zero", target], journey, 1)
        #expect(device.standardError.contains("/dev/zero is not a regular file"), "\(device.standardError)")
        #expect(!FileManager.default.fileExists(atPath: target))
        await journey.stop()
    }

    /// Nor does a link that nobody can follow. (The shell takes it for one to nothing.)
    @Test func aBadLinkDoesNotStopTheOthers() async throws {
        let journey = try await start(sftp: true)
        try journey.directory.write("there/file", "content")
        symlink(String(repeating: "x", count: 300), journey.directory.path("there/bad"))
        let output = try await copy([remote("*", journey), journey.directory.path("here")], journey, 1)
        #expect(output.standardError.contains("there/bad"), "\(output.standardError)")
        #expect(try FileManager.default.contentsOfDirectory(atPath: journey.directory.path("here")) == ["file"])
        await journey.stop()
    }

    /// A device says which files there are, not where they go.
    @Test func namesWithSlashesAreRefused() async throws {
        let forged = #"exec sh -c "$(printf %s "$SSH_ORIGINAL_COMMAND" | sed 's|.$f.; done|./a/.bashrc; done|')""#
        let server = try await OpenSSHServer(configuration: ["ForceCommand \(forged)"], sftp: false)
        let journey = try await Journey(sshd: server)
        for name in ["here/a", "there/a"] { try journey.directory.makeDirectory(name, permissions: 0o755) }
        try journey.directory.write("there/a/.bashrc", "evil")
        for arguments in [[remote("*", journey)], ["-r", remote("", journey)]] {
            let output = try await copy(arguments + [journey.directory.path("here")], journey, 1)
            #expect(output.standardError.contains("did not confirm it"), "\(output.standardError)")
        }
        #expect(try FileManager.default.contentsOfDirectory(atPath: journey.directory.path("here/a")).isEmpty)
        await journey.stop()
    }

    /// Ctrl-C on the way: nothing half is left, on either side, and what was there before is whole.
    @Test(arguments: [true, false], [true, false]) func whatIsInterruptedIsTakenAway(
        sftp: Bool,
        upward: Bool
    ) async throws {
        let journey = try await start(sftp: sftp)
        let (from, to) = upward ? ("here", "there") : ("there", "here")
        let source = journey.directory.path("\(from)/source")
        #expect(FileManager.default.createFile(atPath: source, contents: nil))
        // Sparse: nothing is stored.
        #expect(truncate(source, 4 << 30) == 0)
        try journey.directory.write("\(to)/target", "old")
        let target = journey.directory.path("\(to)/target")
        let process = try journey.start(
            ["copy"]
                + (upward
                    ? [source, "\(journey.destination):\(target)"] : ["\(journey.destination):\(source)", target])
                + journey.sshOptions
        )
        let folder = journey.directory.path(to)
        try await eventually("bytes arrive under a part name") {
            let names = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
            return names.contains { name in
                var status = stat()
                return name != "target" && stat("\(folder)/\(name)", &status) == 0 && status.st_size > 1 << 20
            }
        }
        process.signal(SIGINT)
        #expect(try await process.exit() == .exited(130), "\(process.standardError.text)")
        try await eventually("nothing half is left") {
            (try? FileManager.default.contentsOfDirectory(atPath: folder)) == ["target"]
        }
        #expect(try journey.directory.read("\(to)/target") == "old")
        #expect(!process.standardError.text.contains("error"), "\(process.standardError.text)")
        await journey.stop()
    }
}
