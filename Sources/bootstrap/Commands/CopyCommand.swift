import ArgumentParser
import CLinux
import Fleet
import Glibc
import Platform
import SSHSignal
import Streams
import Synchronization

struct CopyCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "copy",
        abstract: "Copy one file to a machine, or from it.",
        discussion: """
            As scp has it: one of the two is DEST:PATH, where DEST is a device's name or whatever `ssh` would take (an IPv6 address in \
            brackets), and PATH is relative to the account's home directory. Over SFTP where the server has it, else through the \
            account's shell. The target appears when all of it has arrived; what was there before stays until then. Permissions are \
            kept on the way there.

              bootstrap copy app.conf dev7:/etc/app.conf
              bootstrap copy dev7:/var/log/app.log .
            """
    )

    @Argument(help: ArgumentHelp("A local file, or DEST:PATH.", valueName: "SRC"))
    var source: String

    @Argument(help: ArgumentHelp("A local file or directory, or DEST:PATH.", valueName: "DST"))
    var target: String

    @OptionGroup var ssh: SSHOptionGroup

    func run() async throws {
        switch (RemoteFile(source), RemoteFile(target)) {
        case (nil, nil):
            throw fail(
                "neither '\(source)' nor '\(target)' is on another machine; write DEST:PATH (a local name with a colon as ./NAME)",
                .usage
            )
        case (_?, _?):
            throw fail("one of the two must be local; copy it here first", .usage)
        case (nil, let remote?): try await send(to: remote)
        case (let remote?, nil): try await fetch(remote)
        }
    }

    private func send(to remote: RemoteFile) async throws {
        var status = stat()
        guard stat(source, &status) == 0 else {
            throw fail("\(source): \(String(cString: strerror(errno)))", .usage)
        }
        guard status.st_mode & S_IFMT == S_IFREG else {
            throw fail(
                "\(source) is not a regular file; for a directory: tar -cf - DIR | bootstrap exec DEST -- tar -xf -",
                .usage
            )
        }
        let name = source.split(separator: "/").last.map(String.init) ?? source
        let path = remote.path.isEmpty || remote.path.hasSuffix("/") ? remote.path + name : remote.path
        let bar = TransferBar(name)
        try await transfer(with: remote.destination) { client throws(SSHError) in
            try await client.upload(
                .file(path: source),
                to: RemotePath.withoutHome(path),
                permissions: FileMode.of(source),
                progress: { bar.draw($0, of: $1) }
            )
        }
        bar.clear()
    }

    private func fetch(_ remote: RemoteFile) async throws {
        guard let name = remote.path.split(separator: "/").last, !remote.path.hasSuffix("/") else {
            throw fail("'\(source)' names no file", .usage)
        }
        var status = stat()
        let isDirectory = stat(target, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
        let file = isDirectory ? target + (target.hasSuffix("/") ? "" : "/") + name : target
        let bar = TransferBar(String(name))
        try await transfer(with: remote.destination) { client throws(SSHError) in
            try await client.download(
                RemotePath.withoutHome(remote.path),
                toFile: file,
                progress: { bar.draw($0, of: $1) }
            )
        }
        bar.clear()
    }

    private func transfer(with destination: String, _ body: (SSHClient) async throws(SSHError) -> Void) async throws {
        let logins = try ssh.logins()
        let target: RemoteTarget
        do throws(HostError) {
            target = try RemoteTarget(destination, in: DeviceDirectory(Home.devices))
        } catch {
            throw fail(error)
        }
        let login: SSHLogin
        do throws(SSHConfigurationError) {
            login = try target.login(logins) { printError($0) }
        } catch {
            throw fail("\(error)", .usage)
        }
        do throws(SSHError) {
            let client = try await login.connect(on: EventLoop(name: "copy"))
            try await body(client)
            await client.close()
        } catch {
            throw fail("\(target.name): \(error.message)", HostError.Reason(error.code).exitCode)
        }
    }
}

/// How far a copy has come: a line on the terminal that is drawn over, and nothing elsewhere.
private final class TransferBar: Sendable {
    private let name: String
    private let isShown = isatty(STDERR_FILENO) == 1
    private let percent = Mutex(-1)

    init(_ name: String) { self.name = name }

    func draw(_ done: UInt64, of total: UInt64) {
        guard isShown, total > 0 else { return }
        let now = Int(100 * min(1, Double(done) / Double(total)))
        let hasChanged = percent.withLock { percent in
            defer { percent = now }
            return percent != now
        }
        if hasChanged { put("\r\(Printable.clean(name, limit: 60))  \(now) % of \(total >> 10) KiB\u{1B}[K") }
    }

    func clear() {
        if isShown { put("\r\u{1B}[K") }
    }

    private func put(_ text: String) {
        var text = text
        text.withUTF8 { _ = write(STDERR_FILENO, $0.baseAddress, $0.count) }
    }
}
