import Streams

/// What a path leads to.
package enum RemoteFileKind: Hashable, Sendable {
    case file, directory, link
    /// A device, a pipe, a socket.
    case other

    /// What is read to its end has to have one: a pipe waits for somebody who writes, and a device may never end.
    func requireFile(_ path: String) throws(SSHError) {
        switch self {
        case .file: break
        case .directory: throw SSHError(.transferFailed, "\(path) is a directory")
        case .link, .other: throw SSHError(.transferFailed, "\(path) is not a regular file")
        }
    }
}

/// What a server says of a path, links followed.
package struct RemoteFileStatus: Hashable, Sendable {
    package var kind: RemoteFileKind
    /// `0o000...0o7777`.
    package var permissions: UInt32
}

/// A name in a directory of the server.
package struct RemoteChild: Hashable, Sendable {
    package var name: String
    package var status: RemoteFileStatus

    /// Whether this can be the name of something in a directory: a server names files, it does not choose where they
    /// go. Looks at bytes, as the kernel does: a combining mark behind a slash makes another character of it.
    package static func isName(_ name: String) -> Bool {
        !name.isEmpty && name != "." && name != ".." && !name.utf8.contains(UInt8(ascii: "/")) && !name.utf8.contains(0)
    }
}

/// What becomes of a file's permissions, and of what was there before it.
package enum TransferPermissions: Hashable, Sendable {
    /// These, whatever was there, which is replaced.
    case exactly(UInt32)
    /// As scp(1) has it: a new file has these, less what the umask takes. What is there keeps its owner and its own. It
    /// is replaced when all has arrived where that shows no difference: a regular file of the account, with one name.
    /// Everything else, devices and other people's files, is written to.
    case ifNew(UInt32)
}

/// The files of an account on a server, whatever leads to them.
///
/// Transfers that are cancelled take away what they have written under a part name, before they return. Paths are
/// relative to the account's home directory.
package protocol RemoteFiles: Sendable {
    /// nil: there is nothing.
    func status(of path: String) async throws(SSHError) -> RemoteFileStatus?

    /// What is in a directory, without `.`, `..` and links to nothing.
    func children(of directory: String) async throws(SSHError) -> [RemoteChild]

    func makeDirectory(_ path: String, permissions: UInt32) async throws(SSHError)

    /// - Parameter progress: Bytes that have gone, and the total. Called on the event loop.
    func send(
        _ source: UploadSource,
        to path: String,
        part: String,
        permissions: TransferPermissions,
        progress: (@Sendable (UInt64, UInt64) -> Void)?
    ) async throws(SSHError)

    /// Copies a file of the server to `target` here, as scp(1) has it: see ``TransferPermissions/ifNew(_:)``.
    ///
    /// - Parameter progress: Bytes that have come, and the total. Called on the event loop.
    func fetch(
        _ path: String,
        to target: String,
        progress: (@Sendable (UInt64, UInt64) -> Void)?
    ) async throws(SSHError)

    func close() async
}

extension RemoteFiles {
    /// Under a part name that nobody else has.
    package func send(
        _ source: UploadSource,
        to path: String,
        permissions: TransferPermissions,
        progress: (@Sendable (UInt64, UInt64) -> Void)? = nil
    ) async throws(SSHError) {
        try await send(
            source,
            to: path,
            part: PartName.beside(path),
            permissions: permissions,
            progress: progress
        )
    }
}

/// Names for what has not arrived whole.
enum PartName {
    /// In the same directory; also where the file's own name leaves no room for more.
    static func beside(_ path: String) -> String {
        let suffix = "part-\(String(UInt32.random(in: .min ... .max), radix: 16))"
        let name = path.split(separator: "/", omittingEmptySubsequences: false).last ?? ""
        return name.utf8.count > 240 ? path.dropLast(name.count) + suffix : "\(path).\(suffix)"
    }
}

extension SSHClient {
    /// Its files: over SFTP where the server has it, otherwise through the account's shell.
    package func files() async throws(SSHError) -> any RemoteFiles {
        if let files = try await SFTPFiles.open(self) { return files }
        return ShellFiles(self)
    }
}
