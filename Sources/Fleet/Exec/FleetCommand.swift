import CLinux
import Glibc
import Platform
import SSHSignal
import Streams

/// Files there, a command, files back: on many machines, some at a time, over one connection each.
package struct FleetCommand: Sendable {
    private let command: String
    private let put: [FileTransfer]
    private let get: [FileTransfer]
    /// For the command; nil: as long as it takes.
    private let timeout: Duration?
    private let logins: LoginOptions
    private let output: Output

    /// More output of one machine than this is a failure: it is shown when the command has ended.
    private static let outputLimit = 16 << 20

    /// Where lines go, each with the name of its machine. Called from any task.
    package struct Output: Sendable {
        /// What the command of one machine has printed: whole lines, at once.
        var standard: @Sendable (String) -> Void
        /// One line: what it has printed to its standard error, or why a machine failed.
        var error: @Sendable (String) -> Void

        package init(standard: @escaping @Sendable (String) -> Void, error: @escaping @Sendable (String) -> Void) {
            self.standard = standard
            self.error = error
        }
    }

    /// - Parameters:
    ///   - command: For the account's shell; empty: only files are copied.
    ///   - put: Copied there before.
    ///   - get: Copied here afterwards.
    ///   - timeout: For the command; nil: as long as it takes.
    ///   - logins: How to log in.
    ///   - output: Where lines go.
    package init(
        _ command: String,
        put: [FileTransfer],
        get: [FileTransfer],
        timeout: Duration?,
        logins: LoginOptions,
        output: Output
    ) {
        self.command = command
        self.put = put
        self.get = get
        self.timeout = timeout
        self.logins = logins
        self.output = output
    }

    /// - Parameter parallel: How many machines at a time.
    /// - Returns: nil when it succeeded everywhere. Why it did not was said.
    package func callAsFunction(_ targets: [RemoteTarget], parallel: Int) async -> HostFailures? {
        let width = targets.map(\.name.count).max() ?? 0
        let outcomes = await HostRun(width: parallel)(targets) { (target, loop) async throws(HostError) in
            let padding = String(repeating: " ", count: max(0, width - target.name.count))
            let label = "\(target.name)\(padding)  "
            do throws(HostError) {
                try await run(on: target, label, loop)
            } catch {
                output.error("\(label)error: \(error.message)")
                throw error
            }
        }
        let failures = HostFailures(outcomes.compactMap(\.error?.reason))
        if let failures, targets.count > 1 { output.error("\(failures.count) of \(targets.count) failed") }
        return failures
    }

    private func run(on target: RemoteTarget, _ label: String, _ loop: EventLoop) async throws(HostError) {
        let login: SSHLogin
        do throws(SSHConfigurationError) {
            login = try target.login(logins) { output.error("\(label)error: \($0)") }
        } catch {
            throw HostError(.failed, "\(error)")
        }
        let client: SSHClient
        do throws(SSHError) {
            client = try await login.connect(on: loop)
        } catch {
            throw HostError(HostError.Reason(error.code), error.message)
        }
        let result: Result<Void, HostError>
        do throws(HostError) {
            result = .success(try await work(client, target, label))
        } catch {
            result = .failure(error)
        }
        await client.close()
        try result.get()
    }

    private func work(_ client: SSHClient, _ target: RemoteTarget, _ label: String) async throws(HostError) {
        do {
            for transfer in put {
                let local = NameTemplate.expand(transfer.source, for: target.name)
                try await client.upload(
                    .file(path: local),
                    to: RemotePath.withoutHome(NameTemplate.expand(transfer.target, for: target.name)),
                    permissions: FileMode.of(local)
                )
            }
            if !command.isEmpty { try await runCommand(client, label) }
            for transfer in get {
                try await client.download(
                    RemotePath.withoutHome(NameTemplate.expand(transfer.source, for: target.name)),
                    toFile: NameTemplate.expand(transfer.target, for: target.name)
                )
            }
        } catch let error as HostError {
            throw error
        } catch let error as SSHError {
            throw HostError(.failed, error.message)
        } catch {
            throw HostError(.failed, "\(error)")
        }
    }

    private func runCommand(_ client: SSHClient, _ label: String) async throws {
        let result = try await client.run(command, outputLimit: Self.outputLimit, timeout: timeout)
        var text = ""
        for line in Self.lines(result.text) { text += "\(label)\(line)\n" }
        if !text.isEmpty { output.standard(text) }
        for line in Self.lines(result.standardErrorText) { output.error("\(label)\(line)") }
        guard result.exit.isSuccess else { throw HostError(.failed, "\(result.exit)") }
    }

    /// Safe for a terminal, whatever the machine prints.
    private static func lines(_ text: String) -> [String] {
        var lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        if lines.last?.isEmpty == true { lines.removeLast() }
        return lines.map { Printable.clean(String($0), limit: 1 << 20) }
    }
}

/// `FROM:TO`, where one side is on another machine; `{name}` in either stands for the machine's name.
package struct FileTransfer: Hashable, Sendable {
    package let source: String
    package let target: String

    /// nil without a colon between two paths.
    package init?(parsing text: String) {
        guard let colon = text.firstIndex(of: ":") else { return nil }
        source = String(text[..<colon])
        target = String(text[text.index(after: colon)...])
        guard !source.isEmpty, !target.isEmpty else { return nil }
    }
}
