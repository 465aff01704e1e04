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
        warn: { printWarning($0) },
        complain: { printError("error: \($0)") }
    )
}

/// Logs go to stderr: stdout belongs to results.
func startLogging(_ level: Logger.Level) {
    LoggingSystem.bootstrap { label in
        var handler = StreamLogHandler.standardError(label: label)
        handler.logLevel = Verbosity.logLevel(level)
        return handler
    }
}

/// Prints a line on stderr: whatever is not the result that a script reads.
func printError(_ line: String) {
    var line = Colour.marked(line)
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
