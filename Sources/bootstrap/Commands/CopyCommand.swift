import ArgumentParser
import CLinux
import Fleet
import Glibc
import SSHSignal
import Streams
import Synchronization

struct CopyCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "copy",
        abstract: "Copy files to a machine, or from it.",
        discussion: """
            As scp has it: what is on another machine is DEST:PATH, where DEST is a device's name or whatever `ssh` would take (an \
            IPv6 address in brackets), and PATH is relative to the account's home directory; *, ? and […] in it stand for names that \
            are there. Over SFTP where the server has it, else through the account's shell. A new file has the permissions of its \
            source, less what the umask takes; one that is there keeps its own, and its owner. It is replaced when all has arrived; \
            what is no regular file of the account, such as a device, is written to.

              bootstrap copy app.conf dev7:/etc/app.conf
              bootstrap copy 'dev7:/var/log/app*.log' logs/
              bootstrap copy -r site dev7:/srv
            """
    )

    @Argument(
        help: ArgumentHelp(
            "Local files, or DEST:PATH; the last one is where the others go: a directory, unless there is one source.",
            valueName: "SRC … DST"
        ),
        completion: .filesAndDevices
    )
    var paths: [String]

    @Flag(name: [.customShort("r"), .customLong("recursive")], help: "Copy directories with all that is in them.")
    var recursive = false

    @OptionGroup var ssh: SSHOptionGroup

    private var sources: [String] { Array(paths.dropLast()) }
    private var target: String { paths.last ?? "" }

    func validate() throws {
        guard paths.count >= 2 else { throw ValidationError("name what to copy, and where to: SRC … DST") }
    }

    func run() async throws {
        let remotes = sources.map { RemoteFile($0) }
        switch (remotes.compactMap { $0 }.count, RemoteFile(target)) {
        case (0, nil):
            throw fail(
                "neither '\(sources[0])' nor '\(target)' is on another machine; write DEST:PATH (a local name with a colon as ./NAME)",
                .usage
            )
        case (0, let remote?):
            for source in sources { try check(source) }
            let reason = try await copy(with: remote.destination) { [sources] (copy) async throws(SSHError) in
                try await copy.send(sources, to: RemotePath.withoutHome(remote.path))
            }
            if let reason { throw reason.exitCode }
        case (sources.count, nil):
            for (source, remote) in zip(sources, remotes) where remote?.path.hasSuffix("/") == true && !recursive {
                throw fail("'\(source)' names a directory; -r copies it", .usage)
            }
            // Each machine once, in the order in which they are named.
            var patterns: [(destination: String, paths: [String])] = []
            for remote in remotes.compactMap({ $0 }) {
                let path = RemotePath.withoutHome(remote.path)
                if let index = patterns.firstIndex(where: { $0.destination == remote.destination }) {
                    patterns[index].paths.append(path)
                } else {
                    patterns.append((remote.destination, [path]))
                }
            }
            if patterns.count > 1 { try checkDirectory() }
            // What one machine does not give is no reason to leave the others out.
            var reasons: [HostError.Reason] = []
            for (destination, paths) in patterns {
                let reason = try await copy(with: destination) { [target] (copy) async throws(SSHError) in
                    try await copy.fetch(paths, to: target)
                }
                if let reason { reasons.append(reason) }
            }
            if let reason = HostError.Reason.common(of: reasons) { throw reason.exitCode }
        case (_, nil): throw fail("some of the sources are here, and so is '\(target)'; copy them apart", .usage)
        case (_, _?):
            throw fail("between two machines: copy it here first, the target or the sources must be local", .usage)
        }
    }

    /// Before anybody is asked for a password.
    private func check(_ source: String) throws {
        var status = stat()
        guard stat(source, &status) == 0 else {
            throw fail("\(source): \(String(cString: strerror(errno)))", .usage)
        }
        guard status.st_mode & S_IFMT != S_IFDIR || recursive else {
            throw fail("\(source) is a directory; -r copies it", .usage)
        }
    }

    private func checkDirectory() throws {
        var status = stat()
        guard stat(target, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else {
            throw fail("\(target) is not a directory", .usage)
        }
    }

    /// - Returns: Why not everything was copied, which was printed; nil when all was.
    /// - Throws: the exit code, when it was stopped or nothing can be copied with any machine.
    private func copy(
        with destination: String,
        _ body: @escaping @Sendable (FileCopy) async throws(SSHError) -> Void
    ) async throws -> HostError.Reason? {
        let logins = try ssh.logins()
        let target: RemoteTarget
        do throws(HostError) {
            target = try RemoteTarget(destination, in: DeviceDirectory(Home.devices))
        } catch {
            return try Self.told(error.message, error.reason)
        }
        let login: SSHLogin
        do throws(SSHConfigurationError) {
            login = try target.login(logins) { printNotice($0) }
        } catch {
            return try Self.told("\(error)", .usage)
        }
        let bar = TransferBar(isShown: Verbosity.current >= .normal)
        let failures = Mutex<[HostError.Reason]>([])
        let end = Mutex<HostError.Reason?>(nil)
        let report = FileCopy.Report(
            progress: { bar.draw($0, $1, of: $2) },
            finished: { bar.finish($0) },
            failed: { error in
                bar.clear()
                printError("error: \(target.name): \(error.message)")
                failures.withLock { $0.append(error.reason) }
            }
        )
        try await stoppable { [recursive] in
            do throws(SSHError) {
                let client = try await login.connect(on: EventLoop(name: "copy"))
                printDetail("\(target.name): \(client.serverVersion), host key \(client.hostKey)")
                let files = try await client.files()
                try await body(FileCopy(files, isRecursive: recursive, report: report))
                await files.close()
                await client.close()
            } catch {
                bar.clear()
                guard !Task.isCancelled else { return }
                let reason = try Self.told("\(target.name): \(error.message)", HostError.Reason(error.code))
                end.withLock { $0 = reason }
            }
        }
        return end.withLock { $0 } ?? HostError.Reason.common(of: failures.withLock { $0 })
    }

    /// Prints why a machine has failed.
    ///
    /// - Throws: the exit code, where a question was answered with Ctrl-C: that is meant for all.
    private static func told(_ message: String, _ reason: HostError.Reason) throws -> HostError.Reason {
        let code = fail(message, reason.exitCode)
        guard code != .interrupted else { throw code }
        return reason
    }
}
