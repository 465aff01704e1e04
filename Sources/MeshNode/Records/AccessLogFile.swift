import Glibc
import Platform
import Streams

/// Where the lines of the access log go: a file that it makes and appends to, or standard output. Used by one thread at
/// a time; a write may block for as long as it likes.
final class AccessLogFile {
    private let path: String?
    private var descriptor: Int32
    private var isPipe: Bool
    /// The last line was written in part.
    private var isTorn = false

    /// - Parameter descriptor: As ``open(_:)`` has returned it; owned.
    init(_ settings: NodeConfiguration.AccessLogSettings, _ descriptor: Int32) {
        path = settings.path
        self.descriptor = descriptor
        isPipe = Self.isPipe(descriptor)
    }

    deinit { if path != nil { _ = Glibc.close(descriptor) } }

    func reopen() throws(StreamError) {
        guard let path else { return }
        let next = try Self.open(path)
        _ = Glibc.close(descriptor)
        descriptor = next
        isPipe = Self.isPipe(next)
        isTorn = false
    }

    func write(_ bytes: [UInt8]) throws(StreamError) {
        var lines = 0
        try write(bytes, linesWritten: &lines)
    }

    /// - Parameter linesWritten: How many are in the file, whole, also where this fails.
    func write(_ bytes: [UInt8], linesWritten: inout Int) throws(StreamError) {
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
                throw failure()
            }
            linesWritten += piece.prefix(count).count { $0 == UInt8(ascii: "\n") }
            isTorn = piece[piece.startIndex + count - 1] != UInt8(ascii: "\n")
            rest = rest.dropFirst(count)
        }
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
            default: return -1
            }
        }
    }

    private func failure() -> StreamError {
        .system(errno, "writing to \(path ?? "standard output")")
    }

    /// As many whole lines as fit, at least one.
    private static func lines(of bytes: ArraySlice<UInt8>, upTo limit: Int) -> ArraySlice<UInt8> {
        if bytes.count <= limit { return bytes }
        let newline = UInt8(ascii: "\n")
        let end = bytes.prefix(limit).lastIndex(of: newline) ?? bytes.firstIndex(of: newline)
        return end.map { bytes[...$0] } ?? bytes
    }

    private static func isPipe(_ descriptor: Int32) -> Bool {
        var status = stat()
        return fstat(descriptor, &status) == 0 && status.st_mode & S_IFMT == S_IFIFO
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
