import Logging
import Synchronization

/// How much is said on stderr beside errors. One for the process; the command line sets it.
enum Verbosity: Int, Comparable {
    case quiet, normal, verbose, everything

    private static let level = Atomic(Verbosity.normal.rawValue)

    static var current: Verbosity { Verbosity(rawValue: level.load(ordering: .relaxed)) ?? .normal }

    static func set(_ verbosity: Verbosity) { level.store(verbosity.rawValue, ordering: .relaxed) }

    static func < (one: Verbosity, other: Verbosity) -> Bool { one.rawValue < other.rawValue }

    /// For logs, where a command has another level of its own.
    static func logLevel(_ normal: Logger.Level) -> Logger.Level {
        switch current {
        case .quiet: .error
        case .normal: normal
        case .verbose: .debug
        case .everything: .trace
        }
    }
}

/// Something that the user should know; not with `-q`.
func printWarning(_ text: String) {
    if Verbosity.current >= .normal { printError("warning: \(text)") }
}

/// What goes on; not with `-q`.
func printNotice(_ text: String) {
    if Verbosity.current >= .normal { printError(text) }
}

/// What was done, on stdout; not with `-q`, for it is not what was asked for.
func printDone(_ text: String) {
    if Verbosity.current >= .normal { printLine(text) }
}

/// What explains how something came about; with `-v`.
func printDetail(_ text: String) {
    if Verbosity.current >= .verbose { printError(text) }
}
