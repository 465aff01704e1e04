import Platform
import Streams

/// Files through the account's shell, for servers without SFTP (dropbear). Needs `sh`, `cat`, `wc`, `ls`, `chmod` and
/// `mv`, and `cp` and `id` where something is replaced.
struct ShellFiles: RemoteFiles {
    private let client: SSHClient

    init(_ client: SSHClient) { self.client = client }

    func close() async {}

    // MARK: Names

    /// Says of `$f` what it is, and its permissions as `ls` has them.
    private static let describe = """
        if [ -d "$f" ]; then k=d; elif [ -f "$f" ]; then k=f; elif [ -e "$f" ]; then k=o; else k=n; fi; \
        set -- $(ls -ldL "$f" 2>/dev/null)
        """

    func status(of path: String) async throws(SSHError) -> RemoteFileStatus? {
        let script = "LC_ALL=C; export LC_ALL; set -f; f=\(Self.quote(path)); \(Self.describe); echo $k $1"
        let result = try await Self.run(script, on: client)
        try Self.check(result, "looking at \(path)")
        let words = result.text.split(whereSeparator: \.isWhitespace)
        guard words.first != "n" else { return nil }
        guard words.count == 2 else { throw Self.unexpected("looking at \(path)", result.text) }
        return Self.status(words[0], words[1])
    }

    func children(of directory: String) async throws(SSHError) -> [RemoteChild] {
        let script = """
            LC_ALL=C; export LC_ALL; cd \(Self.quote(directory)) || exit 1; \
            for f in ./* ./.[!.]* ./..?*; do \(Self.describe); \
            [ $k = n ] || printf '%s %s %s\\0' $k "$1" "$f"; done
            """
        let result = try await Self.run(script, on: client, outputLimit: 64 << 20, timeout: .seconds(600))
        try Self.check(result, "reading \(directory)")
        return try result.text.split(separator: "\0").map { record throws(SSHError) in
            let words = record.split(separator: " ", maxSplits: 2)
            guard words.count == 3, words[2].utf8.starts(with: "./".utf8) else {
                throw Self.unexpected("reading \(directory)", result.text)
            }
            let name = String(Substring(words[2].utf8.dropFirst(2)))
            guard RemoteChild.isName(name) else { throw Self.unexpected("reading \(directory)", result.text) }
            return RemoteChild(name: name, status: Self.status(words[0], words[1]))
        }
    }

    func makeDirectory(_ path: String, permissions: UInt32) async throws(SSHError) {
        let path = Self.quote(path)
        let script = "mkdir \(path) && chmod \(Self.lessUmask(permissions)) \(path)"
        try Self.check(try await Self.run(script, on: client), "making the directory \(path)")
    }

    /// `-rw-r-----` and the like.
    private static func status(_ kind: Substring, _ mode: Substring) -> RemoteFileStatus {
        var permissions: UInt32 = 0
        for (index, letter) in mode.dropFirst().prefix(9).enumerated() {
            let bit = UInt32(1) << UInt32(8 - index)
            if letter != "-", letter != "S", letter != "T" { permissions |= bit }
        }
        return RemoteFileStatus(
            kind: kind == "d" ? .directory : kind == "f" ? .file : .other,
            permissions: permissions
        )
    }

    // MARK: There

    func send(
        _ source: UploadSource,
        to path: String,
        part: String,
        permissions: TransferPermissions,
        progress: (@Sendable (UInt64, UInt64) -> Void)?
    ) async throws(SSHError) {
        // Whoever closes the connection instead does not know when the part is gone.
        let interruption = LoopBound(Interruption(), on: client.loop)
        let sent: Result<SSHCommandResult, SSHError> = await withTaskCancellationHandler {
            await perform { connection, completion in
                interruption.withValue { interruption in
                    do throws(SSHError) {
                        let reader = try source.open()
                        CommandRun.start(
                            Self.sendCommand(part: part, path: path, size: reader.size, permissions: permissions),
                            on: connection,
                            input: reader,
                            outputLimit: 64 << 10,
                            timeout: nil,
                            interruption: interruption,
                            progress: progress,
                            completion: completion
                        )
                    } catch {
                        completion(.failure(error))
                    }
                }
            }
        } onCancel: {
            interruption.loop.submit { interruption.withValue { $0.request() } }
        }
        let result = try sent.get()
        if Task.isCancelled, !result.exit.isSuccess { throw .interrupted }
        try Self.check(result, "uploading to \(path)")
        // libssh2 cannot tell a missing exit status from 0.
        guard result.text.contains("upload complete") else {
            throw Self.unexpected("uploading to \(path)", result.text)
        }
    }

    /// A connection that is cut looks to `cat` like the end of the file: only the count decides whether the part is
    /// renamed.
    static func sendCommand(part: String, path: String, size: UInt64, permissions: TransferPermissions) -> String {
        let isWhole = "[ \"$n\" -eq \(size) ] || { echo \"received $n of \(size) bytes\" >&2; exit 72; }"
        let names = """
            t=\(quote(path)); p=\(quote(part)); drop() { rm -f "$p"; exit $1; }; \
            [ ! -d "$t" ] || { echo "$t is a directory" >&2; exit 73; };
            """
        let receive = """
            cat > "$p" || drop 71; n=$(wc -c < "$p"); (\(isWhole)) || drop 72;
            """
        let finish = "mv -f \"$p\" \"$t\" && echo upload complete"
        let script: String
        switch permissions {
        case .exactly(let mode):
            script = "umask 077; \(names) \(receive) chmod \(String(mode, radix: 8)) \"$p\" && \(finish)"
        case .ifNew(let mode):
            // As RemoteFiles has it: what may be replaced is copied with its owner and permissions, and filled anew.
            script = """
                LC_ALL=C; export LC_ALL; set -f; \(names) m=\(lessUmask(mode)); \
                fill() { cat > "$t" || exit 71; [ ! -f "$t" ] || { n=$(wc -c < "$t"); \(isWhole); }; \
                echo upload complete; exit 0; }; \
                if [ -L "$t" ]; then r=$(readlink -f "$t") && [ -f "$r" ] || fill; \
                p=$r.${p##*.}; t=$r; fi; \
                if [ -e "$t" ]; then [ -f "$t" ] || fill; set -- $(ls -ldn "$t"); \
                case $1 in *[sStT+]*) fill;; -?w*) ;; *) fill;; esac; \
                [ "$2 $3 $4" = "1 $(id -u) $(id -g)" ] || fill; \
                (umask 077; cp -p "$t" "$p") 2>/dev/null || { rm -f "$p"; fill; }; \
                \(receive) \(finish); \
                else umask 077; \(receive) chmod $m "$p" && \(finish); fi
                """
        }
        return command(script)
    }

    // MARK: Here

    func fetch(
        _ path: String,
        to target: String,
        progress: (@Sendable (UInt64, UInt64) -> Void)?
    ) async throws(SSHError) {
        guard let found = try await status(of: path) else {
            throw SSHError(.transferFailed, "reading \(path) failed: no such file or directory")
        }
        try found.kind.requireFile(path)
        let made = try DownloadFile(target: target, permissions: found.permissions & 0o777)
        let file = LoopBound(made, on: client.loop)
        let fetched: Result<Void, SSHError> = await withTaskCancellationHandler {
            await perform { connection, completion in
                file.withValue {
                    CatDownload.start(
                        on: connection,
                        Self.plain(path),
                        to: $0,
                        progress: progress,
                        completion: completion
                    )
                }
            }
        } onCancel: { [client] in
            // There is nothing there to put in order.
            Task { await client.close() }
        }
        try fetched.get()
    }

    // MARK: Commands

    static func run(
        _ script: String,
        on client: SSHClient,
        outputLimit: Int = 64 << 10,
        timeout: Duration? = SFTPSession.patience
    ) async throws(SSHError) -> SSHCommandResult {
        let mark = ShellMark()
        let line = command("\(mark.command); \(script)")
        var result = try await client.run(line, outputLimit: outputLimit, timeout: timeout)
        result.output = mark.behind(result.output)
        return result
    }

    static func check(_ result: SSHCommandResult, _ what: String) throws(SSHError) {
        guard !result.exit.isSuccess else { return }
        let said = result.standardErrorText.isEmpty ? "" : ": \(result.standardErrorText)"
        throw SSHError(.transferFailed, "\(what) failed (\(result.exit))\(said)")
    }

    /// A name for the shell that no program takes for an option.
    static func quote(_ path: String) -> String { ShellScript.quote(plain(path)) }

    private static func plain(_ path: String) -> String { path.utf8.first == UInt8(ascii: "-") ? "./\(path)" : path }

    /// Whatever the login shell is, sh runs it.
    private static func command(_ script: String) -> String { "exec sh -c \(ShellScript.quote(script))" }

    private static func lessUmask(_ permissions: UInt32) -> String {
        "$(printf %o $((0\(String(permissions, radix: 8)) & ~0$(umask))))"
    }

    private static func unexpected(_ what: String, _ text: String) -> SSHError {
        SSHError(
            .transferFailed,
            "\(what): the server's shell did not confirm it: \(Printable.clean(text, limit: 200))"
        )
    }

    private func perform<Success: Sendable>(
        _ body: @escaping @Sendable (any SSHConnection, @escaping (Result<Success, SSHError>) -> Void) -> Void
    ) async -> Result<Success, SSHError> {
        do throws(SSHError) { return .success(try await client.perform(body)) } catch { return .failure(error) }
    }
}
