import CLinux
import Glibc
import Platform
import SSHSignal
import Streams

/// Files there, a command, files back: on many machines, some at a time, over one connection each.
package struct FleetCommand: Sendable {
    private let command: String
    private let transfers: FileTransfers
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
        /// One line that a user should know, and that is no failure.
        var warning: @Sendable (String) -> Void
        /// What came of one machine, for programs.
        var outcome: @Sendable (FleetOutcome) -> Void

        package init(
            standard: @escaping @Sendable (String) -> Void,
            error: @escaping @Sendable (String) -> Void,
            warning: @escaping @Sendable (String) -> Void,
            outcome: @escaping @Sendable (FleetOutcome) -> Void = { _ in }
        ) {
            self.standard = standard
            self.error = error
            self.warning = warning
            self.outcome = outcome
        }
    }

    /// - Parameters:
    ///   - command: For the account's shell; empty: only files are copied.
    ///   - transfers: Files there before, and back afterwards.
    ///   - timeout: For the command; nil: as long as it takes.
    ///   - logins: How to log in.
    ///   - output: Where lines go.
    package init(
        _ command: String,
        _ transfers: FileTransfers,
        timeout: Duration?,
        logins: LoginOptions,
        output: Output
    ) {
        self.command = command
        self.transfers = transfers
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
            let told = LockedOutcome(target.name)
            defer { output.outcome(told.value) }
            do throws(HostError) {
                try await run(on: target, label, loop, told)
            } catch {
                told.change {
                    $0.ok = false
                    $0.reason = error.reason.rawValue
                    $0.error = error.message
                }
                if !Task.isCancelled { output.error("\(label)error: \(error.message)") }
                throw error
            }
        }
        let failures = HostFailures(outcomes.compactMap(\.error?.reason))
        if let failures, targets.count > 1, !Task.isCancelled {
            output.error("\(failures.count) of \(targets.count) failed")
        }
        return failures
    }

    private func run(
        on target: RemoteTarget,
        _ label: String,
        _ loop: EventLoop,
        _ told: LockedOutcome
    ) async throws(HostError) {
        let login: SSHLogin
        do throws(SSHConfigurationError) {
            login = try target.login(logins) { output.warning("\(label)warning: \($0)") }
        } catch {
            throw HostError(.usage, "\(error)")
        }
        let client: SSHClient
        do throws(SSHError) {
            client = try await login.connect(on: loop)
        } catch {
            throw HostError(HostError.Reason(error.code), error.message)
        }
        let result: Result<Void, HostError>
        do throws(HostError) {
            result = .success(try await work(client, target, label, told))
        } catch {
            result = .failure(error)
        }
        await client.close()
        try result.get()
    }

    private func work(
        _ client: SSHClient,
        _ target: RemoteTarget,
        _ label: String,
        _ told: LockedOutcome
    ) async throws(HostError) {
        do {
            let files = try await transfers.files(of: client)
            if let files { try await transfers.send(for: target.name, over: files) }
            if !command.isEmpty { try await runCommand(client, label, told) }
            if let files { try await transfers.fetch(for: target.name, over: files) }
            await files?.close()
        } catch let error as HostError {
            throw error
        } catch let error as SSHError {
            throw HostError(.failed, error.message)
        } catch {
            throw HostError(.failed, "\(error)")
        }
    }

    private func runCommand(_ client: SSHClient, _ label: String, _ told: LockedOutcome) async throws {
        // Who stops us does not wait for commands.
        let result = try await withTaskCancellationHandler {
            try await client.run(command, outputLimit: Self.outputLimit, timeout: timeout)
        } onCancel: {
            Task { await client.close() }
        }
        told.change {
            $0.stdout = result.text
            $0.stderr = result.standardErrorText
            switch result.exit {
            case .status(let status): $0.exit = status
            case .signal(let name): $0.signal = name
            }
        }
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

/// What came of a command on one machine, for programs.
package struct FleetOutcome: Encodable, Sendable {
    package var name: String
    package var ok = true
    /// The command's exit status; nil where it did not run, or a signal ended it.
    package var exit: Int32?
    package var signal: String?
    package var stdout: String?
    /// The end of it.
    package var stderr: String?
    /// The kind of failure.
    package var reason: String?
    package var error: String?
}

/// An outcome while it is found out.
private final class LockedOutcome: Sendable {
    private let outcome: Lock<FleetOutcome>

    init(_ name: String) { outcome = Lock(FleetOutcome(name: name)) }

    var value: FleetOutcome { outcome.withLock { $0 } }

    func change(_ body: (inout FleetOutcome) -> Void) { outcome.withLock { body(&$0) } }
}
