import Platform

/// The order of a download's requests, without any I/O:
///
/// ```
/// version ─▶ open ─▶ size ─▶ read … (64 in flight) ─▶ close ─▶ done
/// ```
///
/// A file whose size is said to be 0 is read until its end all the same: those of /proc are such.
struct SFTPDownloadState {
    /// What to do next.
    enum Action: Equatable {
        case send([UInt8])
        /// Put these bytes at `offset` of the local file; then ``nextRead()``.
        case write([UInt8], offset: UInt64)
        /// More room for reads: ``nextRead()``.
        case fill
        case done
        case fail(String)
        /// The server's SFTP is unusable before anything was asked of it.
        case unavailable
    }

    private enum Step {
        case version
        case open
        case size(handle: [UInt8])
        case reading(handle: [UInt8])
        case close
        case over
    }

    private struct Request {
        var offset: UInt64
        var count: Int
    }

    /// Every server answers this much.
    static let chunk = 32 << 10
    static let maximumOutstanding = 64

    let path: String
    /// What the server said; 0 before that, and for files that grow as they are read.
    private(set) var size: UInt64 = 0
    /// Bytes that have arrived.
    private(set) var received: UInt64 = 0
    private var step = Step.version
    private var nextID: UInt32 = 1
    private var offset: UInt64 = 0
    /// Reads that were answered with less than was asked for: the rest.
    private var again: [Request] = []
    private var outstanding: [UInt32: Request] = [:]

    init(path: String) {
        self.path = path
    }

    /// Whether the server has shown that it has SFTP.
    var isSpeaking: Bool { if case .version = step { false } else { true } }

    /// The next request for bytes; nil when there is none now.
    mutating func nextRead() -> [UInt8]? {
        guard case .reading(let handle) = step else { return nil }
        let request: Request
        if let rest = again.popLast() {
            request = rest
        } else if size == 0 {
            guard outstanding.isEmpty else { return nil }
            request = Request(offset: received, count: Self.chunk)
        } else {
            guard outstanding.count < Self.maximumOutstanding, offset < size else { return nil }
            request = Request(offset: offset, count: Int(min(UInt64(Self.chunk), size - offset)))
            offset += UInt64(request.count)
        }
        let id = takeID()
        outstanding[id] = request
        return SFTPPacket.read(id: id, handle: handle, offset: request.offset, count: request.count)
    }

    mutating func received(_ answer: SFTPPacket.Answer?) -> Action {
        guard let answer else { return fail("the SFTP server sent a malformed answer") }
        switch (step, answer) {
        case (.version, .version):
            step = .open
            return .send(SFTPPacket.openForReading(id: takeID(), path: path))
        case (.version, _):
            return .unavailable
        case (.open, .handle(_, let handle)):
            step = .size(handle: handle)
            return .send(SFTPPacket.status(id: takeID(), handle: handle))
        case (.open, .status(_, let code, let message)):
            return fail("cannot open \(path): \(SFTPPacket.describe(code, message))")
        case (.size(let handle), .size(_, let found)):
            size = found
            step = .reading(handle: handle)
            return .fill
        case (.size, .status(_, let code, let message)):
            return fail("cannot tell the size of \(path): \(SFTPPacket.describe(code, message))")
        case (.reading(let handle), .data(let id, let bytes)):
            return take(bytes, id, handle)
        case (.reading(let handle), .status(let id, let code, let message)):
            guard outstanding.removeValue(forKey: id) != nil else { return fail("the SFTP server answered twice") }
            guard code == SFTPPacket.endOfFile else {
                return fail("reading \(path) failed at byte \(received): \(SFTPPacket.describe(code, message))")
            }
            guard size == 0 else { return fail("\(path) became shorter while it was read") }
            return close(handle)
        case (.close, .status):
            step = .over
            return .done
        default:
            return fail("the SFTP server gave an answer that does not fit the question")
        }
    }

    /// After ``Action/write(_:offset:)``: what comes next once all has arrived.
    mutating func wrote() -> Action {
        guard case .reading(let handle) = step, size > 0, received == size else { return .fill }
        return close(handle)
    }

    private mutating func take(_ bytes: [UInt8], _ id: UInt32, _ handle: [UInt8]) -> Action {
        guard let request = outstanding.removeValue(forKey: id), !bytes.isEmpty, bytes.count <= request.count else {
            return fail("the SFTP server gave an answer that does not fit the question")
        }
        if bytes.count < request.count && size > 0 {
            again.append(
                Request(offset: request.offset + UInt64(bytes.count), count: request.count - bytes.count)
            )
        }
        received += UInt64(bytes.count)
        return .write(bytes, offset: request.offset)
    }

    private mutating func close(_ handle: [UInt8]) -> Action {
        step = .close
        return .send(SFTPPacket.close(id: takeID(), handle: handle))
    }

    private mutating func fail(_ why: String) -> Action {
        step = .over
        return .fail(why)
    }

    private mutating func takeID() -> UInt32 {
        defer { nextID &+= 1 }
        return nextID
    }
}
