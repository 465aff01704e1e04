import Fleet
import Glibc
import Logging

/// Prints one line on stdout at once, also when stdout is a file or a pipe that somebody watches.
func printLine(_ line: String) {
    _ = writeStandardOutput(Array("\(line)\n".utf8))
}

extension HostReport {
    /// Results on stdout, the rest on stderr.
    static let standard = HostReport(
        say: { printLine($0) },
        warn: { printError("warning: \($0)") },
        complain: { printError("error: \($0)") }
    )
}

/// Logs go to stderr: stdout belongs to results.
func startLogging(_ level: Logger.Level) {
    LoggingSystem.bootstrap { label in
        var handler = StreamLogHandler.standardError(label: label)
        handler.logLevel = level
        return handler
    }
}
