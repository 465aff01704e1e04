package import SSHSignal
package import Streams

/// Does one thing with many devices, some at a time, and tells for each how it went.
package struct DeviceRun: Sendable {
    private let hosts: HostRun
    private let done: String
    private let report: HostReport

    /// - Parameters:
    ///   - parallel: How many devices at a time.
    ///   - done: Named in the summary: "renewed".
    ///   - report: Gets a line for each device, and a summary where there are several.
    package init(parallel: Int, done: String, report: HostReport) {
        hosts = HostRun(width: parallel)
        self.done = done
        self.report = report
    }

    /// - Parameters:
    ///   - devices: In the order in which they are begun.
    ///   - body: Returns a line for people, or throws why it failed.
    /// - Returns: nil when none failed.
    package func callAsFunction(
        _ devices: [Device],
        _ body: @escaping @Sendable (Device, EventLoop) async throws(HostError) -> String
    ) async -> HostFailures? {
        let width = devices.map(\.name.count).max() ?? 0
        let outcomes = await hosts(devices) { [report] (device, loop) async throws(HostError) in
            do throws(HostError) {
                let text = try await body(device, loop)
                let padding = String(repeating: " ", count: max(0, width - device.name.count))
                report.say("\(device.name)\(padding)  \(text)")
                report.outcome(HostOutcome(device.name, result: text))
            } catch {
                report.complain(error.message)
                report.outcome(HostOutcome(device.name, error))
                throw error
            }
        }
        let failures = outcomes.compactMap(\.error?.reason)
        if devices.count > 1 {
            let failed = failures.isEmpty ? "" : ", \(failures.count) failed"
            report.say("\(devices.count - failures.count) of \(devices.count) devices \(done)\(failed)")
        }
        return HostFailures(failures)
    }
}

extension Device {
    /// How to log in to it: as it was recorded, unless the command line says something else.
    package func login(
        _ options: LoginOptions,
        warn: @escaping @Sendable (String) -> Void
    ) throws(HostError) -> SSHLogin {
        do throws(SSHConfigurationError) {
            return try options.login(to: try Destination(parsing: destination), recorded: ssh.arguments) {
                [name] in warn("\(name): \($0)")
            }
        } catch {
            throw HostError(.usage, "\(name): \(error)")
        }
    }
}
