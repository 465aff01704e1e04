import Logging
import Platform

/// Writes to a file that stays small, in the form of swift-log's own handler.
struct FileLogHandler: LogHandler {
    let label: String
    private var ownLevel: Logger.Level
    var metadata: Logger.Metadata = [:]
    var metadataProvider: Logger.MetadataProvider?
    let file: LogFile

    init(label: String, logLevel: Logger.Level, file: LogFile) {
        self.label = label
        ownLevel = logLevel
        self.file = file
    }

    var logLevel: Logger.Level {
        get { RunTimeLogLevel.current ?? ownLevel }
        set { ownLevel = newValue }
    }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        var fields = metadata
        if let provided = metadataProvider?.get() { fields.merge(provided) { $1 } }
        if let own = event.metadata { fields.merge(own) { $1 } }
        let text = fields.sorted { $0.key < $1.key }.map { " \($0.key)=\($0.value)" }.joined()
        let time = describe(time: WallClock.system.seconds)
        file.append(printableLine("\(time) \(event.level) \(label):\(text) [\(event.source)] \(event.message)"))
    }
}
