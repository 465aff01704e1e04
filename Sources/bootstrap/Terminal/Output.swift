import Fleet
import Glibc
import Logging
import Platform

// Everything that people read is printed by one of these, which make it harmless for a terminal: certificates, peers
// and files have a part in most of it, and escape sequences in it would be the terminal's orders. Bytes that are data
// (`copy`, `exec`, a stream) go as they are.

/// Prints one line on stdout at once, also when stdout is a file or a pipe that somebody watches. A command whose line
/// cannot be written fails in the end.
///
/// - Parameters:
///   - colour: Of its beginning, where a terminal shows it; nil: none.
///   - length: So many characters of it.
func printLine(_ line: String, _ colour: String? = nil, of length: Int = .max) {
    var line = Printable.cleanText(line)
    if let colour { line = Colour.output(String(line.prefix(length)), colour) + line.dropFirst(length) }
    _ = writeStandardOutput(Array("\(line)\n".utf8))
}

/// The same for what a service says while it runs: a full disk is no reason for it to fail.
func announce(_ line: String) {
    _ = writeStandardOutput(Array("\(Printable.cleanText(line))\n".utf8), isResult: false)
}

/// As ``printLine(_:)``, in the place of the standard library's, which would print what it is given.
func print(_ item: Any) { printLine("\(item)") }

extension HostReport {
    /// What was done on stdout, the rest on stderr.
    static let standard = HostReport(
        say: { printDone($0) },
        warn: { printWarning($0) },
        complain: { printError("error: \($0)") }
    )
}

/// Logs go to stderr: stdout belongs to results.
///
/// - Parameter file: What stderr is, where that has to stay small; nil: anything.
func startLogging(_ level: Logger.Level, to file: LogFile? = nil) {
    LoggingSystem.bootstrap { label in
        let level = Verbosity.logLevel(level)
        if let file { return FileLogHandler(label: label, logLevel: level, file: file) }
        var handler = PrintableLogHandler(StreamLogHandler.standardError(label: label))
        handler.logLevel = level
        return handler
    }
}

/// Makes what is logged harmless, and one line.
private struct PrintableLogHandler: LogHandler {
    private var handler: StreamLogHandler

    init(_ handler: StreamLogHandler) { self.handler = handler }

    var logLevel: Logger.Level {
        get { RunTimeLogLevel.current ?? handler.logLevel }
        set { handler.logLevel = newValue }
    }

    var metadata: Logger.Metadata {
        get { handler.metadata }
        set { handler.metadata = newValue }
    }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { handler[metadataKey: key] }
        set { handler[metadataKey: key] = newValue }
    }

    func log(event: LogEvent) {
        var event = event
        event.message = "\(printableLine(event.message.description))"
        event.metadata = event.metadata?.mapValues { "\(printableLine($0.description))" }
        handler.log(event: event)
    }
}

/// Prints a line on stderr: whatever is not the result that a script reads.
func printError(_ line: String) {
    var line = Colour.marked(Printable.cleanText(line))
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

/// For a log: cleaned, and one line.
func printableLine(_ text: String) -> String {
    let text = Printable.cleanText(text)
    return text.utf8.contains(0x0A) ? text.split(separator: "\n").joined(separator: " | ") : text
}
