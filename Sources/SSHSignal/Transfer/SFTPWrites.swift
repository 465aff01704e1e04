/// Which bytes of a file were asked to be written, and which were: 64 requests in flight, without any I/O.
struct SFTPWrites {
    /// Every server takes this much in a write.
    static let chunk = 32 << 10
    /// 64 × 32 KiB fill the 2 MiB window of OpenSSH's server.
    static let maximumOutstanding = 64

    /// At least 1.
    let size: UInt64
    private let handle: [UInt8]
    private let path: String
    private var offset: UInt64 = 0
    /// Bytes that the server said it wrote.
    private(set) var acknowledged: UInt64 = 0
    private var outstanding: [UInt32: Int] = [:]

    /// - Parameters:
    ///   - path: For messages.
    ///   - handle: Of the file, open.
    ///   - size: How much will be written.
    init(to path: String, handle: [UInt8], size: UInt64) {
        self.path = path
        self.handle = handle
        self.size = size
    }

    /// The header of the next write and how many bytes of the file follow it; nil when there is none now.
    mutating func next(_ id: UInt32) -> (header: [UInt8], count: Int)? {
        guard outstanding.count < Self.maximumOutstanding, offset < size else { return nil }
        let count = Int(min(UInt64(Self.chunk), size - offset))
        let header = SFTPPacket.writeHeader(id: id, handle: handle, offset: offset, count: count)
        outstanding[id] = count
        offset += UInt64(count)
        return (header, count)
    }

    /// - Returns: Whether all is written.
    mutating func received(_ answer: SFTPPacket.Answer) throws(SSHError) -> Bool {
        guard case .status(let id, let code, let message) = answer, let count = outstanding.removeValue(forKey: id)
        else { throw .unfitting }
        guard code == 0 else {
            let why = SFTPPacket.describe(code, message)
            throw SSHError(.transferFailed, "writing \(path) failed at byte \(acknowledged) of \(size): \(why)")
        }
        acknowledged += UInt64(count)
        return acknowledged == size
    }
}
