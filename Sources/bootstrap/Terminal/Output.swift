import Fleet
import Glibc
import Logging
import Platform

/// Prints one line on stdout at once, also when stdout is a file or a pipe that somebody watches. A command whose line
/// cannot be written fails in the end.
func printLine(_ line: String) {
    _ = writeStandardOutput(Array("\(line)\n".utf8))
}

/// The same for what a service says while it runs: a full disk is no reason for it to fail.
func announce(_ line: String) {
    _ = writeStandardOutput(Array("\(line)\n".utf8), isResult: false)
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
///
/// - Parameter file: What stderr is, where that has to stay small; nil: anything.
func startLogging(_ level: Logger.Level, to file: LogFile? = nil) {
    LoggingSystem.bootstrap { label in
        if let file { return FileLogHandler(label: label, logLevel: level, file: file) }
        var handler = StreamLogHandler.standardError(label: label)
        handler.logLevel = level
        return handler
    }
}

/// Prints a line on stderr: whatever is not the result that a script reads.
func printError(_ line: String) {
    var line = line
    line.append("\n")
    // One write, so that lines of several tasks do not mix.
    line.withUTF8 { text in
        var rest = UnsafeRawBufferPointer(text)
        while !rest.isEmpty {
            let count = write(STDERR_FILENO, rest.baseAddress, rest.count)
            if count < 0 {
                if errno == EINTR { continue }
                return
            }
            rest = UnsafeRawBufferPointer(rebasing: rest[count...])
        }
    }
}
