import Logging
import Synchronization
import TestPeers

/// Keeps what is logged, so that a test can wait for a line.
final class LogRecorder: Sendable {
    private let recorded = Mutex<[String]>([])

    var lines: [String] { recorded.withLock { $0 } }

    /// A logger that writes here only.
    var logger: Logger { Logger(label: "test") { _ in Handler(recorder: self) } }

    /// Waits for a line that contains `text`, beyond the first `start` lines.
    func line(containing text: String, after start: Int = 0, within limit: Duration = .seconds(90)) async throws {
        try await eventually("a line with '\(text)' in \(lines)", within: limit) {
            lines.dropFirst(start).contains { $0.contains(text) }
        }
    }

    private struct Handler: LogHandler {
        let recorder: LogRecorder
        var metadata: Logger.Metadata = [:]
        var logLevel = Logger.Level.debug

        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }

        func log(event: LogEvent) {
            recorder.recorded.withLock {
                $0.append("\(event.level) \(event.message)\(event.metadata.map { " \($0)" } ?? "")")
            }
        }
    }
}
