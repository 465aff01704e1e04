import ArgumentParser
import CLinux
import Glibc
import Platform
import SSHSignal
import Streams

/// Files there, a command, files back: on many machines, some at a time, over one connection each.
struct FleetCommand: Sendable {
    let command: String
    let put: [FileTransfer]
    let get: [FileTransfer]
    /// For the command; nil: as long as it takes.
    let timeout: Duration?
    let ssh: SSHOptionGroup
    let nameWidth: Int

    /// More output of one machine than this is a failure: it is shown when the command has ended.
    private static let outputLimit = 16 << 20

    private enum Failure: Error {
        case login(SSHError)
        case step(String)
        /// The command itself, which has said why.
        case command(SSHExit)
    }

    /// - Parameter parallel: How many machines at a time.
    /// - Throws: the exit code, when it did not succeed everywhere. Why was said.
    func callAsFunction(_ targets: [RemoteTarget], parallel: Int) async throws {
        let loops = EventLoopGroup(count: min(targets.count, parallel, Executable.processors))
        let codes = await withTaskGroup(of: ExitCode.self) { group in
            var failed: [ExitCode] = []
            var waiting = targets[...]
            func startNext() {
                guard let target = waiting.popFirst() else { return }
                group.addTask { await run(on: target, loops.next()) }
            }
            for _ in 0..<parallel { startNext() }
            while let code = await group.next() {
                if code != .success { failed.append(code) }
                startNext()
            }
            return failed
        }
        await loops.shutDown()
        guard let first = codes.first else { return }
        if targets.count > 1 { printError("\(codes.count) of \(targets.count) failed") }
        // One kind of failure has its own exit code; a mixture is just a failure.
        throw codes.allSatisfy { $0 == first } ? first : ExitCode.failed
    }

    private func run(on target: RemoteTarget, _ loop: EventLoop) async -> ExitCode {
        do throws(Failure) {
            let client = try await connect(to: target, loop)
            let result: Result<Void, Failure>
            do throws(Failure) {
                result = .success(try await work(client, target))
            } catch {
                result = .failure(error)
            }
            await client.close()
            try result.get()
            return .success
        } catch {
            switch error {
            case .login(let error):
                report(target, error.message)
                return error.exitCode
            case .step(let message):
                report(target, message)
                return .failed
            case .command(let exit):
                report(target, "\(exit)")
                return .failed
            }
        }
    }

    private func connect(to target: RemoteTarget, _ loop: EventLoop) async throws(Failure) -> SSHClient {
        let login: SSHLogin
        do throws(SSHConfigurationError) {
            login = try target.login(ssh) { report(target, $0) }
        } catch {
            throw .step("\(error)")
        }
        do throws(SSHError) {
            return try await login.connect(on: loop)
        } catch {
            throw .login(error)
        }
    }

    private func work(_ client: SSHClient, _ target: RemoteTarget) async throws(Failure) {
        do {
            for transfer in put {
                let local = FileTransfer.expand(transfer.source, for: target.name)
                try await client.upload(
                    .file(path: local),
                    to: RemotePath.withoutHome(FileTransfer.expand(transfer.target, for: target.name)),
                    permissions: FileMode.of(local)
                )
            }
            if !command.isEmpty { try await runCommand(client, target) }
            for transfer in get {
                try await client.download(
                    RemotePath.withoutHome(FileTransfer.expand(transfer.source, for: target.name)),
                    toFile: FileTransfer.expand(transfer.target, for: target.name)
                )
            }
        } catch let error as Failure {
            throw error
        } catch let error as SSHError {
            throw .step(error.message)
        } catch {
            throw .step("\(error)")
        }
    }

    private func runCommand(_ client: SSHClient, _ target: RemoteTarget) async throws {
        let result = try await client.run(command, outputLimit: Self.outputLimit, timeout: timeout)
        var text = ""
        for line in Self.lines(result.text) { text += "\(label(target))\(line)\n" }
        // One write, so that the lines of several machines do not mix.
        if !text.isEmpty { _ = writeStandardOutput(Array(text.utf8)) }
        for line in Self.lines(result.standardErrorText) { printError("\(label(target))\(line)") }
        guard result.exit.isSuccess else { throw Failure.command(result.exit) }
    }

    /// Safe for a terminal, whatever the machine prints.
    private static func lines(_ text: String) -> [String] {
        var lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        if lines.last?.isEmpty == true { lines.removeLast() }
        return lines.map { Printable.clean(String($0), limit: 1 << 20) }
    }

    private func label(_ target: RemoteTarget) -> String {
        target.name + String(repeating: " ", count: max(0, nameWidth - target.name.count)) + "  "
    }

    private func report(_ target: RemoteTarget, _ message: String) { printError("\(label(target))error: \(message)") }
}

/// A path of the far side.
enum RemotePath {
    /// Both SFTP and the shell start in the home directory, and neither expands `~` in what is quoted.
    static func withoutHome(_ path: String) -> String {
        path == "~" ? "." : path.hasPrefix("~/") ? String(path.dropFirst(2)) : path
    }
}

/// Permissions of a local file.
enum FileMode {
    static func of(_ path: String) -> UInt32 {
        var status = stat()
        return stat(path, &status) == 0 ? UInt32(status.st_mode & 0o777) : 0o600
    }
}
