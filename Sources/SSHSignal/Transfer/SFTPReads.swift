/// Which bytes of a file were asked for, and which have come: 64 requests in flight, without any I/O.
///
/// A file whose size is said to be 0 is read until its end all the same: those of /proc are such.
struct SFTPReads {
    private struct Request {
        var offset: UInt64
        var count: Int
    }

    /// What the server said; 0 for files that grow as they are read.
    let size: UInt64
    private let handle: [UInt8]
    private let path: String
    /// Bytes that have arrived.
    private(set) var received: UInt64 = 0
    private(set) var isDone = false
    private var offset: UInt64 = 0
    /// Reads that were answered with less than was asked for: the rest.
    private var again: [Request] = []
    private var outstanding: [UInt32: Request] = [:]

    /// - Parameters:
    ///   - path: For messages.
    ///   - handle: Of the file, open.
    ///   - size: As the server says.
    init(of path: String, handle: [UInt8], size: UInt64) {
        self.path = path
        self.handle = handle
        self.size = size
    }

    /// The next request for bytes; nil when there is none now.
    mutating func next(_ id: UInt32) -> [UInt8]? {
        guard !isDone else { return nil }
        let request: Request
        if let rest = again.popLast() {
            request = rest
        } else if size == 0 {
            guard outstanding.isEmpty else { return nil }
            request = Request(offset: received, count: SFTPWrites.chunk)
        } else {
            guard outstanding.count < SFTPWrites.maximumOutstanding, offset < size else { return nil }
            request = Request(offset: offset, count: Int(min(UInt64(SFTPWrites.chunk), size - offset)))
            offset += UInt64(request.count)
        }
        outstanding[id] = request
        return SFTPPacket.read(id: id, handle: handle, offset: request.offset, count: request.count)
    }

    /// - Returns: Bytes, and where in the file they belong.
    mutating func received(_ answer: SFTPPacket.Answer) throws(SSHError) -> (bytes: [UInt8], offset: UInt64)? {
        guard let id = answer.id, let request = outstanding.removeValue(forKey: id) else { throw .unfitting }
        switch answer {
        case .data(_, let bytes) where !bytes.isEmpty && bytes.count <= request.count:
            if bytes.count < request.count && size > 0 {
                let offset = request.offset + UInt64(bytes.count)
                again.append(Request(offset: offset, count: request.count - bytes.count))
            }
            received += UInt64(bytes.count)
            isDone = size > 0 && received == size
            return (bytes, request.offset)
        case .status(_, SFTPPacket.endOfFile, _):
            guard size == 0 else { throw SSHError(.transferFailed, "\(path) became shorter while it was read") }
            isDone = true
            return nil
        case .status(_, let code, let message):
            let why = SFTPPacket.describe(code, message)
            throw SSHError(.transferFailed, "reading \(path) failed at byte \(received): \(why)")
        default: throw .unfitting
        }
    }
}
