import Platform

/// The order of an upload's requests, without any I/O:
///
/// ```
/// version ─▶ open ─▶ write … (64 in flight) ─▶ permissions ─▶ size ─▶ close ─▶ rename ─▶ done
///                └── a failed write: remove the part
/// ```
struct SFTPUploadState {
    /// What to do next.
    enum Action: Equatable {
        case send([UInt8])
        /// More room for writes: ``nextWrite(available:)``.
        case fill
        case none
        /// The file is in place.
        case done
        /// It is complete under its part name, and the server cannot rename it atomically over SFTP.
        case renameOtherwise
        case fail(String)
        /// The server's SFTP is unusable before anything was asked of it.
        case unavailable
    }

    private enum Step {
        case version
        case open
        case writing(handle: [UInt8])
        case permissions(handle: [UInt8])
        case size(handle: [UInt8])
        case close
        case rename
        case removing(why: String)
        case over
    }

    /// Every server takes this much in a write.
    static let chunk = 32 << 10
    /// 64 × 32 KiB fill the 2 MiB window of OpenSSH's server.
    static let maximumOutstanding = 64

    let size: UInt64
    let part: String
    let target: String
    let permissions: UInt32
    private var step = Step.version
    private var nextID: UInt32 = 1
    private var canRename = false
    /// Bytes asked to be written, and bytes that the server said it wrote.
    private var offset: UInt64 = 0
    private(set) var acknowledged: UInt64 = 0
    private var outstanding: [UInt32: Int] = [:]

    init(size: UInt64, part: String, target: String, permissions: UInt32) {
        self.size = size
        self.part = part
        self.target = target
        self.permissions = permissions
    }

    /// Whether the server has shown that it has SFTP.
    var isSpeaking: Bool { if case .version = step { false } else { true } }

    /// The header of the next write and how many bytes of the file follow it; nil when there is none now.
    mutating func nextWrite() -> (header: [UInt8], count: Int)? {
        guard case .writing(let handle) = step, outstanding.count < Self.maximumOutstanding, offset < size else {
            return nil
        }
        let count = Int(min(UInt64(Self.chunk), size - offset))
        let id = takeID()
        let header = SFTPPacket.writeHeader(id: id, handle: handle, offset: offset, count: count)
        outstanding[id] = count
        offset += UInt64(count)
        return (header, count)
    }

    mutating func received(_ answer: SFTPPacket.Answer?) -> Action {
        guard let answer else { return .fail("the SFTP server sent a malformed answer") }
        switch (step, answer) {
        case (.version, .version(_, let extensions)):
            canRename = extensions.contains(SFTPPacket.posixRename)
            step = .open
            // Only the account itself may read it until it is complete.
            return .send(SFTPPacket.open(id: takeID(), path: part, permissions: 0o600))
        case (.version, _):
            return .unavailable
        case (.open, .handle(_, let handle)):
            step = .writing(handle: handle)
            return size == 0 ? writesEnded(handle) : .fill
        case (.open, .status(_, let code, let message)):
            return fail("cannot create \(part): \(SFTPPacket.describe(code, message))")
        case (.writing(let handle), .status(let id, let code, let message)):
            guard let count = outstanding.removeValue(forKey: id) else { return fail("the SFTP server answered twice") }
            guard code == 0 else {
                let why =
                    "writing \(part) failed at byte \(acknowledged) of \(size): \(SFTPPacket.describe(code, message))"
                step = .removing(why: why)
                return .send(SFTPPacket.remove(id: takeID(), path: part))
            }
            acknowledged += UInt64(count)
            if acknowledged == size { return writesEnded(handle) }
            return .fill
        case (.permissions(let handle), .status(_, let code, let message)):
            guard code == 0 else {
                return fail("cannot set the permissions of \(part): \(SFTPPacket.describe(code, message))")
            }
            step = .size(handle: handle)
            return .send(SFTPPacket.status(id: takeID(), handle: handle))
        case (.size(let handle), .size(_, let found)):
            guard found == size else { return fail("\(part) has \(found) bytes after the upload, not \(size)") }
            step = .close
            return .send(SFTPPacket.close(id: takeID(), handle: handle))
        case (.size, .status(_, let code, let message)):
            return fail("cannot check \(part): \(SFTPPacket.describe(code, message))")
        case (.close, .status(_, let code, let message)):
            guard code == 0 else { return fail("closing \(part) failed: \(SFTPPacket.describe(code, message))") }
            guard canRename else {
                step = .over
                return .renameOtherwise
            }
            step = .rename
            return .send(SFTPPacket.rename(id: takeID(), from: part, to: target))
        case (.rename, .status(_, let code, let message)):
            guard code == 0 else {
                return fail("cannot rename \(part) to \(target): \(SFTPPacket.describe(code, message))")
            }
            step = .over
            return .done
        case (.removing(let why), .status(let id, _, _)):
            // Answers to the writes in flight come first.
            if outstanding.removeValue(forKey: id) != nil { return .none }
            return fail(why)
        default:
            return fail("the SFTP server gave an answer that does not fit the question")
        }
    }

    private mutating func writesEnded(_ handle: [UInt8]) -> Action {
        step = .permissions(handle: handle)
        return .send(SFTPPacket.setPermissions(id: takeID(), handle: handle, permissions: permissions))
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
