import Glibc
import Platform
import TestPeers
import Testing

/// What changes of a file are noticed.
@Suite struct FileStampTests {
    private let directory = TemporaryDirectory()

    /// Gives the file the times of `status`, as `cp -p` and `rsync -t` do.
    private func restoreTimes(_ path: String, _ status: stat) {
        let times = [status.st_atim, status.st_mtim]
        #expect(utimensat(AT_FDCWD, path, times, 0) == 0)
    }

    private func status(_ path: String) -> stat {
        var status = stat()
        #expect(stat(path, &status) == 0)
        return status
    }

    @Test func anotherContentOfTheSameSizeAndTime() throws {
        let path = try directory.write("cert-chain.pem", "first")
        let (before, stamp) = (status(path), FileStamp(of: [path]))
        #expect(FileStamp(of: [path]) == stamp)
        let file = open(path, O_WRONLY)
        #expect(write(file, "other", 5) == 5)
        close(file)
        restoreTimes(path, before)
        let after = status(path)
        #expect(after.st_ino == before.st_ino && after.st_size == before.st_size)
        #expect(after.st_mtim.tv_nsec == before.st_mtim.tv_nsec)
        #expect(FileStamp(of: [path]) != stamp)
    }

    @Test func anotherFileInItsPlaceWithTheSameTime() throws {
        let path = try directory.write("key.pem", "first")
        let (before, stamp) = (status(path), FileStamp(of: [path]))
        let other = try directory.write("other", "other")
        restoreTimes(other, before)
        #expect(rename(other, path) == 0)
        #expect(FileStamp(of: [path]) != stamp)
    }

    @Test func permissionsAlone() throws {
        let path = try directory.write("key.pem", "first", permissions: 0o644)
        let stamp = FileStamp(of: [path])
        #expect(chmod(path, 0o600) == 0)
        #expect(FileStamp(of: [path]) != stamp)
        let gone = FileStamp(of: [path, directory.path("nowhere")])
        try directory.write("nowhere", "")
        #expect(FileStamp(of: [path, directory.path("nowhere")]) != gone)
    }

    /// Who only reads changes nothing.
    @Test func reading() throws {
        let path = try directory.write("key.pem", "first")
        let stamp = FileStamp(of: [path])
        _ = try directory.read("key.pem")
        #expect(FileStamp(of: [path]) == stamp)
    }
}
