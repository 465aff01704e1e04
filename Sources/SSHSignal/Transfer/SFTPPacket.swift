import MeshIdentity
import Platform

/// The part of SFTP version 3 (draft-ietf-secsh-filexfer-02, what OpenSSH speaks) that copying a file needs.
enum SFTPPacket {
    enum Kind {
        static let initialise: UInt8 = 1
        static let version: UInt8 = 2
        static let open: UInt8 = 3
        static let close: UInt8 = 4
        static let read: UInt8 = 5
        static let write: UInt8 = 6
        static let fstat: UInt8 = 8
        static let fsetstat: UInt8 = 10
        static let lstat: UInt8 = 7
        static let openDirectory: UInt8 = 11
        static let readDirectory: UInt8 = 12
        static let remove: UInt8 = 13
        static let makeDirectory: UInt8 = 14
        static let realPath: UInt8 = 16
        static let stat: UInt8 = 17
        static let status: UInt8 = 101
        static let handle: UInt8 = 102
        static let data: UInt8 = 103
        static let names: UInt8 = 104
        static let attributes: UInt8 = 105
        static let extended: UInt8 = 200
    }

    private enum Flags {
        static let read: UInt32 = 0x01
        static let writeCreateTruncate: UInt32 = 0x02 | 0x08 | 0x10
        static let writeCreateNew: UInt32 = 0x02 | 0x08 | 0x20
        static let attributeSize: UInt32 = 0x01
        static let attributeOwner: UInt32 = 0x02
        static let attributePermissions: UInt32 = 0x04
        static let attributeTimes: UInt32 = 0x08
        static let attributeExtended: UInt32 = 0x8000_0000
    }

    /// What a server says of a file; nil: nothing.
    struct Attributes: Equatable {
        var size: UInt64?
        var owner: Owner?
        /// Kind and permissions, as in st_mode.
        var mode: UInt32?

        var kind: RemoteFileKind {
            switch mode.map({ $0 & 0o170000 }) {
            case 0o100000, nil: .file
            case 0o040000: .directory
            case 0o120000: .link
            default: .other
            }
        }
    }

    struct Owner: Equatable {
        var user: UInt32
        var group: UInt32
    }

    static let posixRename = "posix-rename@openssh.com"

    /// A message of the server.
    enum Answer: Equatable {
        case version(UInt32, extensions: Set<String>)
        case status(id: UInt32, code: UInt32, message: String)
        case handle(id: UInt32, [UInt8])
        case attributes(id: UInt32, Attributes)
        case data(id: UInt32, [UInt8])
        /// Paths, each with what the server says of it.
        case names(id: UInt32, [Name])

        /// Of the request; nil for the greeting, which has none.
        var id: UInt32? {
            switch self {
            case .version: nil
            case .status(let id, _, _), .handle(let id, _), .attributes(let id, _), .data(let id, _), .names(let id, _):
                id
            }
        }
    }

    struct Name: Equatable {
        var name: String
        var attributes: Attributes
    }

    /// The status code of a path that leads nowhere.
    static let noSuchFile: UInt32 = 2
    /// The status code of a read behind the end.
    static let endOfFile: UInt32 = 1

    /// Decodes a message without its length; nil when it is malformed or not one of those that were asked for.
    static func decode(_ bytes: some Collection<UInt8>) -> Answer? {
        var reader = SSHWireReader(bytes)
        guard let kind = reader.byte(), let id = reader.uint32() else { return nil }
        switch kind {
        case Kind.version:
            var extensions: Set<String> = []
            while let name = reader.text(), reader.string() != nil { extensions.insert(name) }
            return .version(id, extensions: extensions)
        case Kind.status:
            guard let code = reader.uint32() else { return nil }
            return .status(id: id, code: code, message: Printable.clean(reader.text() ?? ""))
        case Kind.handle:
            guard let handle = reader.string(), handle.count <= 256 else { return nil }
            return .handle(id: id, Array(handle))
        case Kind.data:
            guard let data = reader.string() else { return nil }
            return .data(id: id, Array(data))
        case Kind.attributes:
            guard let attributes = attributes(&reader) else { return nil }
            return .attributes(id: id, attributes)
        case Kind.names:
            guard let count = reader.uint32() else { return nil }
            var names: [Name] = []
            for _ in 0..<count {
                // The second is a line of ls, for people.
                guard let name = reader.text(), reader.string() != nil, let found = attributes(&reader) else {
                    return nil
                }
                names.append(Name(name: name, attributes: found))
            }
            return .names(id: id, names)
        default: return nil
        }
    }

    private static func attributes(_ reader: inout SSHWireReader) -> Attributes? {
        guard let flags = reader.uint32() else { return nil }
        var found = Attributes()
        if flags & Flags.attributeSize != 0 {
            guard let size = reader.uint64() else { return nil }
            found.size = size
        }
        if flags & Flags.attributeOwner != 0 {
            guard let user = reader.uint32(), let group = reader.uint32() else { return nil }
            found.owner = Owner(user: user, group: group)
        }
        if flags & Flags.attributePermissions != 0 {
            guard let mode = reader.uint32() else { return nil }
            found.mode = mode
        }
        if flags & Flags.attributeTimes != 0 {
            guard reader.uint64() != nil else { return nil }
        }
        if flags & Flags.attributeExtended != 0 {
            guard let count = reader.uint32() else { return nil }
            for _ in 0..<count { guard reader.string() != nil, reader.string() != nil else { return nil } }
        }
        return found
    }

    static func initialise() -> [UInt8] {
        frame { writer in
            writer.byte(Kind.initialise)
            writer.uint32(3)
        }
    }

    /// Creates the file, or empties it.
    ///
    /// - Parameter exclusive: Only creates it.
    static func open(id: UInt32, path: String, permissions: UInt32, exclusive: Bool) -> [UInt8] {
        request(Kind.open, id) { writer in
            writer.string(path)
            writer.uint32(exclusive ? Flags.writeCreateNew : Flags.writeCreateTruncate)
            writer.uint32(Flags.attributePermissions)
            writer.uint32(permissions)
        }
    }

    static func openForReading(id: UInt32, path: String) -> [UInt8] {
        request(Kind.open, id) { writer in
            writer.string(path)
            writer.uint32(Flags.read)
            writer.uint32(0)
        }
    }

    static func read(id: UInt32, handle: [UInt8], offset: UInt64, count: Int) -> [UInt8] {
        request(Kind.read, id) { writer in
            writer.string(handle)
            writer.uint64(offset)
            writer.uint32(UInt32(count))
        }
    }

    /// What precedes `count` bytes of data in a write.
    static func writeHeader(id: UInt32, handle: [UInt8], offset: UInt64, count: Int) -> [UInt8] {
        var writer = SSHWireWriter()
        writer.uint32(UInt32(1 + 4 + 4 + handle.count + 8 + 4 + count))
        writer.byte(Kind.write)
        writer.uint32(id)
        writer.string(handle)
        writer.uint64(offset)
        writer.uint32(UInt32(count))
        return writer.bytes
    }

    /// Sets the permissions, which ``open(id:path:permissions:)`` leaves to the server's umask.
    static func setPermissions(id: UInt32, handle: [UInt8], permissions: UInt32) -> [UInt8] {
        request(Kind.fsetstat, id) { writer in
            writer.string(handle)
            writer.uint32(Flags.attributePermissions)
            writer.uint32(permissions)
        }
    }

    /// What is known of a path; of the link itself where `followsLinks` is false.
    static func status(id: UInt32, path: String, followsLinks: Bool) -> [UInt8] {
        request(followsLinks ? Kind.stat : Kind.lstat, id) { $0.string(path) }
    }

    /// Where a path leads to, links resolved.
    static func realPath(id: UInt32, path: String) -> [UInt8] { request(Kind.realPath, id) { $0.string(path) } }

    static func openDirectory(id: UInt32, path: String) -> [UInt8] {
        request(Kind.openDirectory, id) { $0.string(path) }
    }

    /// Some more of the names in a directory, until ``endOfFile``.
    static func readDirectory(id: UInt32, handle: [UInt8]) -> [UInt8] {
        request(Kind.readDirectory, id) { $0.string(handle) }
    }

    static func makeDirectory(id: UInt32, path: String, permissions: UInt32) -> [UInt8] {
        request(Kind.makeDirectory, id) { writer in
            writer.string(path)
            writer.uint32(Flags.attributePermissions)
            writer.uint32(permissions)
        }
    }

    static func status(id: UInt32, handle: [UInt8]) -> [UInt8] {
        request(Kind.fstat, id) { $0.string(handle) }
    }

    static func close(id: UInt32, handle: [UInt8]) -> [UInt8] {
        request(Kind.close, id) { $0.string(handle) }
    }

    static func remove(id: UInt32, path: String) -> [UInt8] {
        request(Kind.remove, id) { $0.string(path) }
    }

    /// An atomic replacement, where the server announces it; SFTP's own rename refuses to replace.
    static func rename(id: UInt32, from: String, to: String) -> [UInt8] {
        request(Kind.extended, id) { writer in
            writer.string(posixRename)
            writer.string(from)
            writer.string(to)
        }
    }

    /// What a status code means.
    static func describe(_ code: UInt32, _ message: String) -> String {
        switch code {
        case 2: "no such file or directory"
        case 3: "permission denied"
        case 4:
            "\(message.isEmpty ? "failure" : message) (SFTP does not say why: most often the disk is full or read-only)"
        case 8: "operation not supported"
        default: message.isEmpty ? "SFTP error \(code)" : message
        }
    }

    private static func request(_ kind: UInt8, _ id: UInt32, _ body: (inout SSHWireWriter) -> Void) -> [UInt8] {
        frame { writer in
            writer.byte(kind)
            writer.uint32(id)
            body(&writer)
        }
    }

    private static func frame(_ body: (inout SSHWireWriter) -> Void) -> [UInt8] {
        var inner = SSHWireWriter()
        body(&inner)
        var outer = SSHWireWriter()
        outer.string(inner.bytes)
        return outer.bytes
    }
}
