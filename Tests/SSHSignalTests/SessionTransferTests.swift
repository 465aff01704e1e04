import Foundation
import SSHSignal
import Streams
import Synchronization
import TestPeers
import Testing

@Suite(.serialized) struct SessionTransferTests {
    static let size = 5_000_001

    @Test(arguments: [UploadMethod.automatic, .sftp, .cat]) func uploads(method: UploadMethod) async throws {
        let server = try await OpenSSHServer()
        let client = try await server.connect()
        let target = server.directory.path("it's a file")
        let bytes = Pattern.bytes(Self.size)
        let reports = Mutex<[UInt64]>([])
        let used = try await client.upload(.bytes(bytes), to: target, permissions: 0o755, method: method) {
            done,
            total in
            #expect(total == UInt64(Self.size))
            reports.withLock { $0.append(done) }
        }
        #expect(used == (method == .cat ? .cat : .sftp))
        try expectFile(target, bytes, permissions: 0o755)
        let progress = reports.withLock { $0 }
        #expect(progress.last == UInt64(Self.size))
        #expect(progress == progress.sorted())
        #expect(progress.count > 10)

        // Over an older file, and an empty one.
        let shorter = Pattern.bytes(100, seed: 2)
        try await client.upload(.bytes(shorter), to: target, method: method)
        try expectFile(target, shorter, permissions: 0o600)
        try await client.upload(.bytes([]), to: target, method: method)
        try expectFile(target, [], permissions: 0o600)
        #expect(try await client.download(target) == [])
        await client.close()
    }

    @Test func uploadsALocalFileAndReadsItBack() async throws {
        let server = try await OpenSSHServer()
        let client = try await server.connect()
        let bytes = Pattern.bytes(300_000)
        let local = try server.directory.write("local", bytes)
        let target = server.directory.path("target")
        try await client.upload(.file(path: local), to: target)
        try expectFile(target, bytes, permissions: 0o600)
        #expect(try await client.download(target) == bytes)
        let missing = await sshFailure { try await client.upload(.file(path: local + ".none"), to: target) }
        #expect(missing?.message.contains("No such file") == true)
        let absent = await sshFailure { try await client.download(target + ".none") }
        #expect(absent?.code == .transferFailed)
        await client.close()
    }

    @Test func fallsBackToCatWithoutSFTP() async throws {
        let bytes = Pattern.bytes(Self.size)
        let server = try await OpenSSHServer(sftp: false)
        let client = try await server.connect()
        let target = server.directory.path("target")
        #expect(try await client.upload(.bytes(bytes), to: target) == .cat)
        try expectFile(target, bytes, permissions: 0o600)
        let refused = await sshFailure { try await client.upload(.bytes(bytes), to: target, method: .sftp) }
        #expect(refused?.code == .requestDenied)
        await client.close()

        // A subsystem line whose program is not there.
        let broken = try await OpenSSHServer(configuration: ["Subsystem sftp /nonexistent/sftp-server"], sftp: false)
        let other = try await broken.connect()
        #expect(try await other.upload(.bytes(bytes), to: target) == .cat)
        await other.close()
    }

    @Test func uploadsToDropbear() async throws {
        let server = try await DropbearServer()
        let client = try await server.connect()
        let bytes = Pattern.bytes(1_000_000)
        let target = server.directory.path("target")
        try await client.upload(.bytes(bytes), to: target, permissions: 0o700, method: .cat)
        try expectFile(target, bytes, permissions: 0o700)
        try await client.upload(.bytes(bytes), to: target)
        try expectFile(target, bytes, permissions: 0o600)
        await client.close()
    }

    @Test(arguments: [UploadMethod.sftp, .cat]) func failuresSayWhy(method: UploadMethod) async throws {
        let server = try await OpenSSHServer()
        let client = try await server.connect()
        let absent = await sshFailure {
            try await client.upload(.bytes([1]), to: server.directory.path("none/file"), method: method)
        }
        #expect(absent?.code == .transferFailed)
        let words = method == .cat ? ["No such file", "Directory nonexistent"] : ["no such file"]
        #expect(words.contains { absent?.message.contains($0) == true }, "\(absent?.message ?? "")")

        // A full disk: the part is taken away again.
        let small = try server.directory.makeDirectory("small")
        let mounted = try await ChildProcess.run("mount", ["-t", "tmpfs", "-o", "size=1M", "none", small])
        try #require(mounted.succeeded)
        let full = await sshFailure {
            try await client.upload(.bytes(Pattern.bytes(3_000_000)), to: small + "/file", method: method)
        }
        #expect(full?.code == .transferFailed)
        #expect(
            full?.message.contains(method == .cat ? "No space left" : "disk is full") == true,
            "\(full?.message ?? "")"
        )
        #expect(try FileManager.default.contentsOfDirectory(atPath: small).isEmpty)
        _ = try await ChildProcess.run("umount", [small])
        await client.close()
    }

    /// It ends, and the connection can be used further.
    @Test func aSourceThatBecomesShorterEndsTheUpload() async throws {
        let server = try await OpenSSHServer()
        let client = try await server.connect()
        let local = try server.directory.write("local", Pattern.bytes(30_000_000))
        let target = server.directory.path("target")
        let error = await sshFailure {
            try await client.upload(.file(path: local), to: target, method: .sftp) { _, _ in truncate(local, 0) }
        }
        #expect(error?.message.contains("it became shorter while it was sent") == true, "\(error?.message ?? "")")
        #expect(!FileManager.default.fileExists(atPath: target))
        try await client.upload(.bytes(Pattern.bytes(100)), to: target, method: .sftp)
        try expectFile(target, Pattern.bytes(100), permissions: 0o600)
        await client.close()
    }

    @Test(arguments: [UploadMethod.sftp, .cat]) func aCutUploadLeavesThePartAtMost(method: UploadMethod) async throws {
        let server = try await OpenSSHServer()
        let client = try await server.connect()
        let target = try server.directory.write("target", "old")
        let killed = Mutex(false)
        let error = await sshFailure {
            try await client.upload(.bytes(Pattern.bytes(30_000_000)), to: target, method: method) { done, _ in
                guard done > 10_000_000, killed.withLock({ swap(&$0, true) }) else { return }
                server.killConnections()
            }
        }
        #expect(error?.code == .connectionLost)
        // What runs on at the far end may take the cut for the end of the file; it must not take it for success.
        try await eventually("nothing is left running there") { !Self.isMentioned(target + ".part") }
        #expect(try server.directory.read("target") == "old")
        // Over SFTP nobody is left there who could take it away.
        #expect(FileManager.default.fileExists(atPath: target + ".part") == (method == .sftp))
        // The next upload recovers.
        let again = try await server.connect()
        try await again.upload(.bytes(Pattern.bytes(100)), to: target, method: method)
        try expectFile(target, Pattern.bytes(100), permissions: 0o600)
        #expect(!FileManager.default.fileExists(atPath: target + ".part"))
        await again.close()
    }

    /// Whoever has stopped a copy finds nothing of it when that says so, also where the device takes its time.
    @Test(arguments: [true, false]) func anInterruptedUploadIsAwayWhenItEnds(sftp: Bool) async throws {
        let programs = TemporaryDirectory()
        chmod(programs.path, 0o755)
        try programs.write("rm", "#!/bin/sh\nsleep 0.5\nexec /bin/rm \"$@\"\n", permissions: 0o755)
        let slow = "command=\"PATH=\(programs.path):$PATH exec sh -c \\\"$SSH_ORIGINAL_COMMAND\\\"\""
        let server = try await OpenSSHServer(authorizedKeyOptions: sftp ? "" : slow, sftp: sftp)
        let client = try await server.connect()
        let there = try server.directory.makeDirectory("there")
        let files = try await client.files()
        for target in ["new", "old"] {
            if target == "old" { try server.directory.write("there/old", "as it was") }
            let (progress, begun) = AsyncStream<Void>.makeStream()
            // Holds it in the middle: on a busy machine it could be over before this task goes on.
            let isHeld = Mutex(false)
            let cancelled = DispatchSemaphore(value: 0)
            let upload = Task {
                try await files.send(
                    .bytes(Pattern.bytes(60_000_000)),
                    to: "\(there)/\(target)",
                    permissions: .ifNew(0o644)
                ) { done, _ in
                    guard done > 1_000_000, isHeld.withLock({ swap(&$0, true) }) else { return }
                    begun.yield()
                    cancelled.wait()
                }
            }
            for await _ in progress { break }
            upload.cancel()
            cancelled.signal()
            let error = await sshFailure { try await upload.value }
            #expect(error?.message == SSHError.interrupted.message, "\(error?.message ?? "")")
            let left = try FileManager.default.contentsOfDirectory(atPath: there)
            #expect(left == (target == "old" ? ["old"] : []), "\(left)")
        }
        #expect(try server.directory.read("there/old") == "as it was")
        // What was stopped is the upload alone.
        #expect(try await client.run("echo in").text == "in\n")
        await files.close()
        await client.close()
    }

    /// Whether a running process has `text` in its arguments.
    private static func isMentioned(_ text: String) -> Bool {
        let processes = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
        return processes.contains { process in
            guard Int(process) != nil, let data = FileManager.default.contents(atPath: "/proc/\(process)/cmdline")
            else {
                return false
            }
            return String(decoding: data, as: UTF8.self).contains(text)
        }
    }

    private func swap(_ value: inout Bool, _ new: Bool) -> Bool {
        defer { value = new }
        return !value
    }

    private func expectFile(_ path: String, _ bytes: [UInt8], permissions: Int) throws {
        let found = try [UInt8](Data(contentsOf: URL(fileURLWithPath: path)))
        #expect(found.count == bytes.count)
        #expect(Checksum.of(found) == Checksum.of(bytes))
        let attributes = try FileManager.default.attributesOfItem(atPath: path)
        #expect((attributes[.posixPermissions] as? NSNumber)?.intValue == permissions)
        #expect(!FileManager.default.fileExists(atPath: path + ".part"))
    }
}
