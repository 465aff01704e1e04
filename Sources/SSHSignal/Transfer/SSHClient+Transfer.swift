import Platform
import Streams

/// How a file gets to the server.
public enum UploadMethod: Hashable, Sendable {
    /// SFTP where the server has it, otherwise `cat`.
    case automatic
    /// The server's `sftp` subsystem.
    case sftp
    /// `cat > FILE` in the account's shell, for servers without SFTP (dropbear). Needs `sh`, `wc`, `chmod` and `mv`.
    case cat
}

extension SSHClient {
    /// Copies `source` to `path` on the server: first under a part name, then, once the server has counted as many
    /// bytes as were sent, renamed over what was there. A reader of `path` sees the old file or the new one; an upload
    /// whose connection was cut leaves the part at most. A failed write (a full disk) removes it.
    ///
    /// - Parameters:
    ///   - source: Where the bytes come from.
    ///   - path: Where to on the far side.
    ///   - partPath: In the same file system as `path`; `path` with ".part" by default.
    ///   - permissions: Of the new file, `0o000...0o7777`. Nobody else can read the part while it is written, whatever
    ///     they are.
    ///   - method: How to transfer; by default the first that the server has.
    ///   - progress: Bytes that the server has (SFTP) or that were sent (`cat`), and the total. Called on the event
    ///     loop.
    /// - Returns: How it was sent: never ``UploadMethod/automatic``.
    @discardableResult
    public func upload(
        _ source: UploadSource,
        to path: String,
        partPath: String? = nil,
        permissions: UInt32 = 0o600,
        method: UploadMethod = .automatic,
        progress: (@Sendable (UInt64, UInt64) -> Void)? = nil
    ) async throws(SSHError) -> UploadMethod {
        let part = partPath ?? path + ".part"
        if method != .cat {
            if let files = try await SFTPFiles.open(self) {
                try await Self.send(source, with: files, to: path, part, permissions, progress)
                return .sftp
            }
            if method == .sftp {
                throw SSHError(.requestDenied, "the server has no SFTP (no Subsystem sftp in its sshd_config)")
            }
        }
        try await Self.send(source, with: ShellFiles(self), to: path, part, permissions, progress)
        return .cat
    }

    private static func send(
        _ source: UploadSource,
        with files: any RemoteFiles,
        to path: String,
        _ part: String,
        _ permissions: UInt32,
        _ progress: (@Sendable (UInt64, UInt64) -> Void)?
    ) async throws(SSHError) {
        let result: Result<Void, SSHError>
        do throws(SSHError) {
            try await files.send(source, to: path, part: part, permissions: .exactly(permissions), progress: progress)
            result = .success(())
        } catch {
            result = .failure(error)
        }
        await files.close()
        try result.get()
    }

    /// Reads a file of the server, at most `limit` bytes.
    public func download(_ path: String, limit: Int = 1 << 20) async throws(SSHError) -> [UInt8] {
        let file = ShellFiles.quote(path)
        let result = try await ShellFiles.run(
            // What is neither there nor a file says so itself.
            "[ ! -e \(file) ] || [ -f \(file) ] || [ -d \(file) ] || { echo 'not a regular file' >&2; exit 1; }; "
                + "n=$(wc -c < \(file)) && echo $n && cat < \(file)",
            on: self,
            outputLimit: limit + (64 << 10),
            timeout: nil
        )
        try ShellFiles.check(result, "reading \(path)")
        let size = result.output.prefix { $0 != UInt8(ascii: "\n") }
        let content = result.output.dropFirst(size.count + 1)
        guard content.count <= limit else { throw SSHError(.limit, "\(path) has more than \(limit) bytes") }
        guard Int(String(decoding: size, as: UTF8.self)) == content.count else {
            throw SSHError(
                .transferFailed,
                "\(path): got \(content.count) bytes of \(Printable.clean(String(decoding: size, as: UTF8.self)))"
            )
        }
        return Array(content)
    }

    /// Copies a file of the server to `target` here: over SFTP where the server has it, otherwise by `cat`. A new
    /// target has the file's permissions, less what the umask takes; one that is there keeps its own. The target is
    /// replaced when all has arrived, and not touched before; what is no regular file of this user, such as a device,
    /// is written to.
    ///
    /// - Parameters:
    ///   - path: There; relative to the account's home directory.
    ///   - target: Here.
    ///   - progress: Bytes that have arrived, and the total. Called on the event loop.
    public func download(
        _ path: String,
        toFile target: String,
        progress: (@Sendable (UInt64, UInt64) -> Void)? = nil
    ) async throws(SSHError) {
        let files = try await files()
        let result: Result<Void, SSHError>
        do throws(SSHError) {
            try await files.fetch(path, to: target, progress: progress)
            result = .success(())
        } catch {
            result = .failure(error)
        }
        await files.close()
        try result.get()
    }
}
