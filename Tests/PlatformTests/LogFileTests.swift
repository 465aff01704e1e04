import Glibc
import Platform
import TestPeers
import Testing

/// A log that stays small, and that a full disk does not hurt.
@Suite struct LogFileTests {
    private let directory = TemporaryDirectory()

    @Test func growsToItsLimitTwice() throws {
        let path = directory.path("node.log")
        let log = LogFile(path, limit: 1000)
        for number in 0..<100 { log.append("line \(number) \(String(repeating: "x", count: 90))") }
        let (now, before) = (try directory.read("node.log"), try directory.read("node.log.1"))
        #expect(now.utf8.count <= 1100 && before.utf8.count <= 1100)
        #expect(now.hasSuffix("line 99 \(String(repeating: "x", count: 90))\n"))
        let numbers = (before + now).split(separator: "\n").compactMap { Int($0.split(separator: " ")[1]) }
        #expect(numbers == Array((100 - numbers.count)..<100), "nothing is missing between the two")
    }

    /// An old node that ends with its last stream writes beside the new one.
    @Test func followsAnotherProcessThatHasMovedIt() throws {
        let path = directory.path("node.log")
        let (one, two) = (LogFile(path, limit: 100), LogFile(path, limit: 100))
        one.append(String(repeating: "a", count: 60))
        two.append(String(repeating: "b", count: 60))
        two.append("two")
        one.append("one")
        #expect(try directory.read("node.log") == "two\none\n")
    }

    @Test func whatCannotBeWrittenIsDroppedAndCounted() throws {
        let path = directory.path("node.log")
        #expect(symlink("/dev/full", path) == 0)
        let log = LogFile(path)
        for number in 0..<3 { log.append("line \(number)") }
        #expect(unlink(path) == 0)
        log.append("there is room again")
        let lines = try directory.read("node.log").split(separator: "\n")
        #expect(lines.count == 2)
        #expect(lines[0].hasSuffix(" 3 lines were not written: No space left on device"), "\(lines)")
        #expect(lines[1] == "there is room again")
    }

    @Test func beginsAnewWhereItCannotBeMoved() throws {
        let path = directory.path("node.log")
        try directory.makeDirectory("node.log.1")
        let log = LogFile(path, limit: 100)
        for name in ["a", "b", "c"] { log.append(String(repeating: name, count: 60)) }
        #expect(try directory.read("node.log") == "\(String(repeating: "c", count: 60))\n")
    }

    @Test func withoutADirectoryNothingHappens() throws {
        let log = LogFile(directory.path("gone/node.log"))
        log.append("a")
        try directory.makeDirectory("gone")
        log.append("b")
        let text = try directory.read("gone/node.log")
        #expect(text.hasSuffix("1 lines were not written: No such file or directory\nb\n"), "\(text)")
    }
}
