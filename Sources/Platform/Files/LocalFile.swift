import CLinux
import Glibc

/// Small text files of the local user, read whole.
package enum LocalFile {
    /// Generous for a configuration or known_hosts file; a larger one is a mistake (a device, a log).
    package static let sizeLimit = 64 << 20

    package struct Failure: Error {
        package var number: Int32
        /// What is there could be waited for without end.
        package var isNotRegular = false

        package var reason: String {
            if isNotRegular { return "it is not a regular file" }
            return number == EFBIG ? "it is too large" : String(cString: strerror(number))
        }
    }

    /// nil when there is no such file.
    ///
    /// - Parameter allowsPipe: As in ``openForReading(_:allowsPipe:)``.
    package static func read(
        _ path: String,
        limit: Int = sizeLimit,
        allowsPipe: Bool = true
    ) throws(Failure) -> [UInt8]? {
        try readWithAccess(path, limit: limit, allowsPipe: allowsPipe)?.bytes
    }

    /// As ``read(_:limit:allowsPipe:)``, with who can change the very file that was read.
    package static func readWithAccess(
        _ path: String,
        limit: Int = sizeLimit,
        allowsPipe: Bool = true
    ) throws(Failure) -> (bytes: [UInt8], access: FileAccess)? {
        let descriptor: Int32
        do throws(Failure) {
            descriptor = try openForReading(path, allowsPipe: allowsPipe)
        } catch {
            if !error.isNotRegular, error.number == ENOENT || error.number == ENOTDIR { return nil }
            throw error
        }
        defer { close(descriptor) }
        guard let access = FileAccess(of: descriptor) else { throw Failure(number: errno) }
        return (try contents(of: descriptor, limit: limit), access)
    }

    /// Opens what can be read without waiting for anybody: a named pipe, a socket or a terminal in the file's place
    /// must not hold the process. A device such as /dev/null is read as it is.
    ///
    /// - Parameter allowsPipe: Whether a pipe without a name is taken as well. A shell makes those, `-F <(command)`,
    ///   and somebody writes to them.
    package static func openForReading(_ path: String, allowsPipe: Bool = true) throws(Failure) -> Int32 {
        // The opening itself would wait for a named pipe's writer.
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)
        guard descriptor >= 0 else {
            // A socket cannot be opened.
            throw Failure(number: errno, isNotRegular: errno == ENXIO)
        }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else {
            let number = errno
            close(descriptor)
            throw Failure(number: number)
        }
        // Reading a directory fails by itself.
        switch status.st_mode & S_IFMT {
        case S_IFREG, S_IFDIR: return descriptor
        case S_IFCHR where isatty(descriptor) == 0: return descriptor
        case S_IFIFO where allowsPipe && isNameless(descriptor):
            _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) & ~O_NONBLOCK)
            return descriptor
        default:
            close(descriptor)
            throw Failure(number: EINVAL, isNotRegular: true)
        }
    }

    /// Whether a pipe comes from pipe(2): the kernel says `pipe:[NUMBER]` where others have a path.
    private static func isNameless(_ descriptor: Int32) -> Bool {
        var name = [CChar](repeating: 0, count: 6)
        return readlink("/proc/self/fd/\(descriptor)", &name, name.count) == name.count
            && name == "pipe:[".utf8.map { CChar(bitPattern: $0) }
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
