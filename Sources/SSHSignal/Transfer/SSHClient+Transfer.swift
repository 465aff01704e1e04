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
    /// that was cut leaves the part only. A failed write (a full disk) removes it.
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
            switch try await sendBySFTP(source, part, path, permissions, progress) {
            case .done: return .sftp
            case .renameOtherwise:
                let move = "mv -f -- \(ShellScript.quote(part)) \(ShellScript.quote(path))"
                try Self.check(try await run(move), "renaming \(part) to \(path)")
                return .sftp
            case .unavailable:
                if method == .sftp {
                    throw SSHError(.requestDenied, "the server has no SFTP (no Subsystem sftp in its sshd_config)")
                }
            }
        }
        try await sendByCat(source, part, path, permissions, progress)
        return .cat
    }

    /// Reads a file of the server, at most `limit` bytes.
    public func download(_ path: String, limit: Int = 1 << 20) async throws(SSHError) -> [UInt8] {
        let size = try await run("wc -c < \(ShellScript.quote(path))")
        try Self.check(size, "reading \(path)")
        let result = try await run("cat < \(ShellScript.quote(path))", outputLimit: limit)
        try Self.check(result, "reading \(path)")
        guard Int(size.text.filter { !$0.isWhitespace }) == result.output.count else {
            throw SSHError(
                .transferFailed,
                "\(path): got \(result.output.count) bytes of \(Printable.clean(size.text))"
            )
        }
        return result.output
    }

    /// Copies a file of the server to `target` here: over SFTP where the server has it, otherwise by `cat`. The target
    /// is replaced when all has arrived, and not touched before.
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
        let file = LoopBound(try DownloadFile(target: target), on: loop)
        let outcome = try await perform {
            (connection, completion: @escaping (Result<SFTPOutcome, SSHError>) -> Void) in
            file.withValue {
                let download = SFTPDownload(path, to: $0, progress: progress)
                SFTPConversation.start(download, on: connection, completion: completion)
            }
        }
        guard outcome == .unavailable else { return }
        try await perform { (connection, completion: @escaping (Result<Void, SSHError>) -> Void) in
            file.withValue {
                CatDownload.start(on: connection, path, to: $0, progress: progress, completion: completion)
            }
        }
    }

    private func sendBySFTP(
        _ source: UploadSource,
        _ part: String,
        _ path: String,
        _ permissions: UInt32,
        _ progress: (@Sendable (UInt64, UInt64) -> Void)?
    ) async throws(SSHError) -> SFTPOutcome {
        try await perform { (connection, completion: @escaping (Result<SFTPOutcome, SSHError>) -> Void) in
            do throws(SSHError) {
                let reader = try source.open()
                let state = SFTPUploadState(size: reader.size, part: part, target: path, permissions: permissions)
                let upload = SFTPUpload(reader, state, buffers: connection.loop.buffers, progress: progress)
                SFTPConversation.start(upload, on: connection, completion: completion)
            } catch {
                completion(.failure(error))
            }
        }
    }

    private func sendByCat(
        _ source: UploadSource,
        _ part: String,
        _ path: String,
        _ permissions: UInt32,
        _ progress: (@Sendable (UInt64, UInt64) -> Void)?
    ) async throws(SSHError) {
        let result = try await perform {
            (connection, completion: @escaping (Result<SSHCommandResult, SSHError>) -> Void) in
            do throws(SSHError) {
                let reader = try source.open()
                CommandRun.start(
                    Self.catCommand(part: part, path: path, size: reader.size, permissions: permissions),
                    on: connection,
                    input: reader,
                    outputLimit: 64 << 10,
                    timeout: nil,
                    progress: progress,
                    completion: completion
                )
            } catch {
                completion(.failure(error))
            }
        }
        try Self.check(result, "uploading to \(path)")
        // libssh2 cannot tell a missing exit status from 0.
        guard result.text.contains("upload complete") else {
            throw SSHError(
                .transferFailed,
                "uploading to \(path): the server's shell did not confirm it: \(Printable.clean(result.text))"
            )
        }
    }

    /// A connection that is cut looks to `cat` like the end of the file: only the count decides whether the part is
    /// renamed.
    static func catCommand(part: String, path: String, size: UInt64, permissions: UInt32) -> String {
        let (part, path) = (ShellScript.quote(part), ShellScript.quote(path))
        let script = """
            umask 077; cat > \(part) || { rm -f \(part); exit 71; }; n=$(wc -c < \(part)); \
            [ "$n" -eq \(size) ] || { echo "received $n of \(size) bytes" >&2; exit 72; }; \
            chmod \(String(permissions, radix: 8)) \(part) && mv -f \(part) \(path) && echo upload complete
            """
        // Whatever the login shell is, sh runs it.
        return "exec sh -c \(ShellScript.quote(script))"
    }

    private static func check(_ result: SSHCommandResult, _ what: String) throws(SSHError) {
        guard !result.exit.isSuccess else { return }
        let said = result.standardErrorText.isEmpty ? "" : ": \(result.standardErrorText)"
        throw SSHError(.transferFailed, "\(what) failed (\(result.exit))\(said)")
    }
}
