/// Cuts what arrives from an SFTP server into its messages.
struct SFTPAnswers {
    enum Next {
        /// nil: malformed, or nothing that was asked for.
        case answer(SFTPPacket.Answer?)
        /// Something else than an SFTP server talks (a login shell's greeting). Nothing can follow.
        case tooLong(Int)
    }

    /// No server sends more (SFTP_MAX_MSG_LENGTH of OpenSSH); a block of data that was asked for is smaller.
    private static let maximumLength = 256 << 10

    private var bytes: [UInt8] = []
    private var start = 0

    mutating func append(_ more: UnsafeRawBufferPointer) {
        if start == bytes.count {
            bytes.removeAll(keepingCapacity: true)
            start = 0
        } else if start > Self.maximumLength * 4 {
            bytes.removeFirst(start)
            start = 0
        }
        bytes.append(contentsOf: more)
    }

    /// The next message; nil until more has arrived.
    mutating func next() -> Next? {
        guard bytes.count - start >= 4 else { return nil }
        let length = bytes[start..<start + 4].reduce(0) { $0 << 8 | Int($1) }
        guard length <= Self.maximumLength else { return .tooLong(length) }
        guard bytes.count - start >= 4 + length else { return nil }
        defer { start += 4 + length }
        return .answer(SFTPPacket.decode(bytes[start + 4..<start + 4 + length]))
    }
}
