import Logging
import Synchronization

/// What is logged, where it was changed while the process runs: for every logger, since each has its level from its
/// beginning.
enum RunTimeLogLevel {
    private static let level = Atomic(-1)

    /// nil: as it was at the start.
    static var current: Logger.Level? {
        let index = level.load(ordering: .relaxed)
        return index < 0 ? nil : Logger.Level.allCases[index]
    }

    static func set(_ level: Logger.Level) {
        self.level.store(Logger.Level.allCases.firstIndex(of: level) ?? -1, ordering: .relaxed)
    }
}
