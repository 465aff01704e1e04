import ArgumentParser
import SSHSignal
import Streams

/// Does one thing with many devices, some at a time, and says for each how it went.
struct FleetRun: Sendable {
    /// How many devices at a time.
    var parallel: Int
    /// Named in the summary: "renewed".
    var done: String
    /// Where a device's line goes, and the summary.
    var say: @Sendable (String) -> Void = { printLine($0) }
    /// Where failures go.
    var complain: @Sendable (String) -> Void = { printError("error: \($0)") }

    /// - Parameters:
    ///   - devices: In the order in which they are begun.
    ///   - body: Returns a line for people, or throws why it failed.
    /// - Returns: how many failed, and the exit code for them; nil when none did.
    func callAsFunction(
        _ devices: [DeviceRecord],
        _ body: @escaping @Sendable (DeviceRecord, EventLoop) async throws(EnrollmentError) -> String
    ) async -> (failed: Int, code: ExitCode)? {
        guard !devices.isEmpty else { return nil }
        let width = devices.map(\.name.count).max() ?? 0
        let loops = EventLoopGroup(count: min(devices.count, parallel, Executable.processors))
        let failures = await withTaskGroup(of: EnrollmentError.Reason?.self) { group in
            var failures: [EnrollmentError.Reason] = []
            var waiting = devices[...]
            func startNext() {
                guard let device = waiting.popFirst() else { return }
                group.addTask { [say, complain] in
                    do throws(EnrollmentError) {
                        let text = try await body(device, loops.next())
                        let padding = String(repeating: " ", count: max(0, width - device.name.count))
                        say("\(device.name)\(padding)  \(text)")
                        return nil
                    } catch {
                        complain(error.message)
                        return error.reason
                    }
                }
            }
            for _ in 0..<parallel { startNext() }
            while let failure = await group.next() {
                if let failure { failures.append(failure) }
                startNext()
            }
            return failures
        }
        await loops.shutDown()
        if devices.count > 1 {
            let failed = failures.isEmpty ? "" : ", \(failures.count) failed"
            say("\(devices.count - failures.count) of \(devices.count) devices \(done)\(failed)")
        }
        guard let first = failures.first else { return nil }
        return (failures.count, failures.allSatisfy { $0 == first } ? first.exitCode : .failed)
    }
}

extension DeviceRecord {
    /// How to log in to it: as it was recorded, unless the command line says something else.
    func login(_ ssh: SSHOptionGroup) throws(EnrollmentError) -> SSHLogin {
        do throws(SSHConfigurationError) {
            return try login(ssh.isEmpty ? self.ssh.arguments : ssh.arguments, try ssh.prompts())
        } catch {
            throw EnrollmentError(.usage, "\(name): \(error)")
        }
    }

    /// As it was recorded.
    func login(prompts: SSHLogin.Prompts) throws(EnrollmentError) -> SSHLogin {
        do throws(SSHConfigurationError) {
            return try login(ssh.arguments, prompts)
        } catch {
            throw EnrollmentError(.usage, "\(name): \(error)")
        }
    }

    private func login(
        _ arguments: SSHArguments,
        _ prompts: SSHLogin.Prompts
    ) throws(SSHConfigurationError) -> SSHLogin {
        var prompts = prompts
        prompts.warn = { [name] in printError("warning: \(name): \($0)") }
        return try SSHLogin(to: try Destination(parsing: destination), arguments: arguments, prompts: prompts)
    }
}
