import Glibc

/// Small text files of the local user, read whole.
package enum LocalFile {
    /// Generous for a configuration or known_hosts file; a larger one is a mistake (a device, a log).
    package static let sizeLimit = 64 << 20

    package struct Failure: Error {
        package var number: Int32
        package var reason: String { number == EFBIG ? "it is too large" : String(cString: strerror(number)) }
    }

    /// nil when there is no such file.
    package static func read(_ path: String, limit: Int = sizeLimit) throws(Failure) -> [UInt8]? {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            if errno == ENOENT || errno == ENOTDIR { return nil }
            throw Failure(number: errno)
        }
        defer { close(descriptor) }
        return try contents(of: descriptor, limit: limit)
    }

    /// Everything that an open file still has to read.
    static func contents(of descriptor: Int32, limit: Int) throws(Failure) -> [UInt8] {
        var contents: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = Glibc.read(descriptor, &chunk, chunk.count)
            if count < 0 {
                if errno == EINTR { continue }
                throw Failure(number: errno)
            }
            if count == 0 { return contents }
            contents += chunk[..<count]
            if contents.count > limit { throw Failure(number: EFBIG) }
        }
    }

    /// What Windows editors put before UTF-8.
    package static func withoutByteOrderMark(_ contents: [UInt8]) -> [UInt8] {
        contents.starts(with: [0xEF, 0xBB, 0xBF]) ? Array(contents.dropFirst(3)) : contents
    }

    /// The lines of a text file, each with its number from 1; the ending `\n` or `\r\n` is removed. Bytes that are no
    /// UTF-8 are replaced, so that a stray one in a comment does not hide the rest.
    package static func lines(of contents: [UInt8]) -> [(number: Int, text: String)] {
        withoutByteOrderMark(contents).split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
            .enumerated().map {
                index,
                line in
                let line = line.last == UInt8(ascii: "\r") ? line.dropLast() : line
                return (index + 1, String(decoding: line, as: UTF8.self))
            }
    }
}
