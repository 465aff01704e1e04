import ArgumentParser
import Fleet
import SSHSignal

extension LoginOptions {
    /// What is in effect for a destination.
    ///
    /// - Parameter controlPath: That of `-S`; nil: what the configuration says.
    /// - Throws: the exit code; why was printed.
    func configuration(
        of device: Device?,
        _ destination: String,
        controlPath: String?
    ) throws -> SSHClientConfiguration {
        do throws(SSHConfigurationError) {
            var arguments = arguments(recorded: device?.ssh.arguments)
            if let controlPath {
                let isQuotable = !controlPath.contains { $0 == "\"" || $0 == "\\" || $0.isNewline }
                guard isQuotable, !controlPath.isEmpty else {
                    throw SSHConfigurationError("-S '\(controlPath)' is no path for a socket")
                }
                arguments.options.insert("ControlPath=\"\(controlPath)\"", at: 0)
            }
            return try SSHClientConfiguration(
                resolving: try Destination(parsing: device?.destination ?? destination),
                arguments: arguments
            )
        } catch {
            throw fail("\(error)", .usage)
        }
    }
}
