import Foundation
import MeshIdentity
import Platform
import TestPeers
import Testing

@Suite struct AtomicFiles {
    private let directory = TemporaryDirectory()

    private func entries() throws -> [String] { try FileManager.default.contentsOfDirectory(atPath: directory.path) }

    @Test func aFileIsReplacedWithItsMode() throws {
        let path = try directory.write("file", "old", permissions: 0o666)
        try AtomicFile.write(Array("new".utf8), to: path, mode: 0o640)
        #expect(try directory.read("file") == "new")
        var status = stat()
        try #require(stat(path, &status) == 0)
        #expect(status.st_mode & 0o7777 == 0o640)
        #expect(try entries() == ["file"])
    }

    @Test func whatIsThereCanBeKept() throws {
        let path = directory.path("file")
        try AtomicFile.write([1], to: path, overwrite: false)
        let error = #expect(throws: FileError.self) { try AtomicFile.write([2], to: path, overwrite: false) }
        #expect(error?.code == .alreadyExists)
        #expect(try AtomicFile.read(path) == [1])
        #expect(try entries() == ["file"])
    }

    @Test func aFailureLeavesNothing() throws {
        try directory.makeDirectory("target/full")
        #expect(throws: FileError.self) { try AtomicFile.write([1], to: directory.path("target")) }
        #expect(try entries() == ["target"])
        let missing = #expect(throws: FileError.self) { try AtomicFile.write([1], to: directory.path("no/file")) }
        #expect(missing?.code == .notFound)
        #expect(missing?.message.contains("No such file or directory") == true)
    }

    @Test func onlyRegularFilesOfReasonableSizeAreRead() throws {
        let path = try directory.write("file", [UInt8](repeating: 7, count: 50_000))
        #expect(try AtomicFile.read(path, limit: 50_000).count == 50_000)
        #expect(throws: FileError.self) { try AtomicFile.read(path, limit: 49_999) }
        #expect(throws: FileError.self) { try AtomicFile.read(directory.path) }
        try #require(mkfifo(directory.path("pipe"), 0o600) == 0)
        // A pipe that nobody writes to would hold a plain open(2) for ever.
        #expect(throws: FileError.self) { try AtomicFile.read(directory.path("pipe")) }
    }

    @Test func aLocalFileIsNotWaitedFor() throws {
        let named = directory.path("pipe")
        try #require(mkfifo(named, 0o600) == 0)
        let error = #expect(throws: LocalFile.Failure.self) { try LocalFile.read(named) }
        #expect(error?.reason == "it is not a regular file")
        #expect(try LocalFile.read("/dev/null") == [])
        #expect(try LocalFile.read(directory.path("missing")) == nil)
        let folder = #expect(throws: LocalFile.Failure.self) { try LocalFile.read(directory.path) }
        #expect(folder?.number == EISDIR)
        // What a shell makes of `<(command)`.
        let (reader, writer) = try CloseOnExec.pipe()
        defer { close(reader) }
        #expect(write(writer, [UInt8](1...3), 3) == 3)
        close(writer)
        let refused = #expect(throws: LocalFile.Failure.self) {
            try LocalFile.read("/dev/fd/\(reader)", allowsPipe: false)
        }
        #expect(refused?.isNotRegular == true)
        #expect(try LocalFile.read("/dev/fd/\(reader)") == [1, 2, 3])
    }

    @Test func directoriesAreMadeWithThoseAbove() throws {
        try AtomicFile.createDirectory(directory.path("a/b/c"), mode: 0o700)
        var status = stat()
        try #require(stat(directory.path("a/b/c"), &status) == 0)
        #expect(status.st_mode & 0o777 == 0o700)
        try AtomicFile.createDirectory(directory.path("a/b/c"))
        try directory.write("file", "")
        #expect(throws: FileError.self) { try AtomicFile.createDirectory(directory.path("file")) }
        #expect(throws: FileError.self) { try AtomicFile.createDirectory(directory.path("file/x")) }
    }

    @Test func pathsSplitAsTheShellDoes() {
        #expect(AtomicFile.split("/a/b/") == ("/a", "b"))
        #expect(AtomicFile.split("a") == (".", "a"))
        #expect(AtomicFile.split("/a") == ("/", "a"))
    }

    @Test func aLockHasOneHolder() throws {
        let lock = try FileLock(directory: directory.path, patience: .zero)
        let error = #expect(throws: FileError.self) {
            try FileLock(directory: directory.path, patience: .milliseconds(30))
        }
        #expect(error?.code == .timedOut)
        lock.unlock()
        #expect(throws: Never.self) { try FileLock(directory: directory.path, patience: .zero) }
        lock.unlock()
    }
}
