import CLinux
import Glibc
import Platform
import Streams

/// Where the lines of the access log go: a file that it makes and appends to, or standard output. Used by one thread at
/// a time; a write may block for as long as it likes.
final class AccessLogFile {
    /// What of the bytes is in the file, in whole lines.
    struct Written {
        var lines = 0
        var bytes = 0
    }

    private let path: String?
    private var descriptor: Int32
    private var kind: mode_t
    /// The last line was written in part.
    private var isTorn = false

    /// Why the last write failed.
    private var lastFailure: Int32 = 0
    /// Whether there may be room later for what did not fit: a full disk says so, wherever it is, and a file in any
    /// case.
    var mayHaveRoomLater: Bool { isRegular || lastFailure == ENOSPC || lastFailure == EDQUOT }
    private var isRegular: Bool { kind == S_IFREG }
    private var isPipe: Bool { kind == S_IFIFO }

    /// - Parameter descriptor: As ``open(_:)`` has returned it; owned.
    init(_ settings: NodeConfiguration.AccessLogSettings, _ descriptor: Int32) {
        path = settings.path
        self.descriptor = descriptor
        kind = Self.kind(of: descriptor)
    }

    deinit { if path != nil { _ = Glibc.close(descriptor) } }

    func reopen() throws(StreamError) {
        guard let path else { return }
        let next = try Self.open(path)
        _ = Glibc.close(descriptor)
        descriptor = next
        kind = Self.kind(of: next)
        isTorn = false
    }

    func write(_ bytes: [UInt8]) throws(StreamError) {
        var written = Written()
        try write(bytes, &written)
    }

    /// - Parameter written: Set also where this fails.
    func write(_ bytes: [UInt8], _ written: inout Written) throws(StreamError) {
        if isTorn {
            guard writeOnce([UInt8(ascii: "\n")]) == 1 else { throw failure() }
            isTorn = false
        }
        var rest = bytes[...]
        while !rest.isEmpty {
            // Others write to a pipe, too: up to this length nothing comes between.
            let piece = isPipe ? Self.lines(of: rest, upTo: Int(PIPE_BUF)) : rest
            let count = piece.withUnsafeBytes { writeOnce($0) }
            guard count > 0 else {
                // Nothing of this piece is there, but the piece before may have ended in the middle of a line.
                let failure = failure()
                if isTorn { takeBack(rest.startIndex - written.bytes) }
                throw failure
            }
            let taken = piece.prefix(count)
            if let end = taken.lastIndex(of: UInt8(ascii: "\n")) {
                written.lines += Self.countLines(of: taken)
                written.bytes = end + 1
            }
            isTorn = taken.last != UInt8(ascii: "\n")
            rest = rest.dropFirst(count)
        }
    }

    /// Removes the beginning of a line, which is the last that was written: half a line is no JSON.
    private func takeBack(_ count: Int) {
        var status = stat()
        let end = lseek(descriptor, 0, SEEK_CUR)
        // Another process, which takes over, may have written behind it. Then a line break has to do.
        guard isRegular, fstat(descriptor, &status) == 0, status.st_size == end,
            ftruncate(descriptor, end - off_t(count)) == 0
        else { return }
        // Where standard output is a file that is not appended to.
        _ = lseek(descriptor, end - off_t(count), SEEK_SET)
        isTorn = false
    }

    private func writeOnce(_ bytes: [UInt8]) -> Int { bytes.withUnsafeBytes { writeOnce($0) } }

    private func writeOnce(_ bytes: UnsafeRawBufferPointer) -> Int {
        while true {
            let count = Glibc.write(descriptor, bytes.baseAddress, bytes.count)
            if count >= 0 { return count }
            switch errno {
            case EINTR: continue
            // Whoever started this process has made standard output so.
            case EAGAIN:
                var poll = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                _ = Glibc.poll(&poll, 1, -1)
            default:
                lastFailure = errno
                return -1
            }
        }
    }

    private func failure() -> StreamError {
        .system(lastFailure, "writing to \(path ?? "standard output")")
    }

    /// By memchr(3): one byte after the other would cost as much as writing the line has.
    private static func countLines(of bytes: ArraySlice<UInt8>) -> Int {
        bytes.withUnsafeBytes { bytes in
            var (count, rest) = (0, bytes[...])
            while let start = UnsafeRawBufferPointer(rebasing: rest).baseAddress,
                let found = memchr(start, Int32(UInt8(ascii: "\n")), rest.count)
            {
                count += 1
                rest = rest.dropFirst(UnsafeRawPointer(found) - start + 1)
            }
            return count
        }
    }

    /// As many whole lines as fit, at least one.
    private static func lines(of bytes: ArraySlice<UInt8>, upTo limit: Int) -> ArraySlice<UInt8> {
        if bytes.count <= limit { return bytes }
        let newline = UInt8(ascii: "\n")
        let end = bytes.prefix(limit).lastIndex(of: newline) ?? bytes.firstIndex(of: newline)
        return end.map { bytes[...$0] } ?? bytes
    }

    private static func kind(of descriptor: Int32) -> mode_t {
        var status = stat()
        return fstat(descriptor, &status) == 0 ? status.st_mode & S_IFMT : 0
    }

    private static func isPipe(at path: String) -> Bool {
        var status = stat()
        return stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFIFO
    }

    /// For this user, and to be read by its group: those who collect logs.
    ///
    /// - Throws: ``Streams/StreamError`` when it cannot be opened.
    static func open(_ path: String?) throws(StreamError) -> Int32 {
        guard let path else { return STDOUT_FILENO }
        // A named pipe that nobody reads must not hold up the start.
        let flags = O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK
        var descriptor = Glibc.open(path, O_WRONLY | O_CREAT | flags, 0o640)
        // Nor must it end it: for both directions, the kernel opens one without a reader. What is written waits in it.
        if descriptor < 0, errno == ENXIO, isPipe(at: path) { descriptor = Glibc.open(path, O_RDWR | flags) }
        guard descriptor >= 0 else { throw .system(errno, "opening the access log \(path)") }
        _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) & ~O_NONBLOCK)
        return descriptor
    }
}
