import Foundation
import TestPeers
import Testing

@testable import Platform

/// Whose files are taken, and whose are not.
@Suite struct FileAccessTests {
    @Test func aStrangersFileIsNamedWithWhatToDo() {
        let access = FileAccess(mode: 0o600, owner: 4711)
        let text = access.stranger(who: "can read it", "/etc/x", users: [1000, 0])
        #expect(
            text
                == "belongs to user 4711, who is neither root nor the user of this process (1000), and can read it. "
                + "Look at what is in it, and then: chown 1000 /etc/x, or run this as that user"
        )
        for owner in [1000, 0] as [UInt32] {
            #expect(FileAccess(mode: 0o666, owner: owner).stranger(who: "", "", users: [1000, 0]) == nil)
        }
        // /dev/null says nothing of who wrote what is read.
        let device = FileAccess(mode: 0o666, owner: 4711, isRegular: false)
        #expect(device.stranger(who: "", "", users: [1000, 0]) == nil)
    }

    /// What is told is of the file whose bytes there are.
    @Test func itIsOfTheFileThatWasRead() throws {
        let directory = TemporaryDirectory()
        let path = try directory.write("file", "text", permissions: 0o640)
        let read = try #require(try LocalFile.readWithAccess(path))
        #expect(read.bytes == Array("text".utf8))
        #expect(read.access == FileAccess(mode: 0o640, owner: geteuid()))
        #expect(try AtomicFile.readWithAccess(path).access == read.access)
        // Through a link: of what it leads to.
        try FileManager.default.createSymbolicLink(atPath: directory.path("link"), withDestinationPath: path)
        #expect(try LocalFile.readWithAccess(directory.path("link"))?.access == read.access)
        #expect(try LocalFile.readWithAccess("/dev/null")?.access.isRegular == false)
        #expect(try LocalFile.readWithAccess(directory.path("none")) == nil)
    }
}
