package import Platform

/// Collects what is wrong with one file while it is decoded, so that one run shows every mistake.
package final class Diagnostics {
    package let file: String
    package private(set) var issues: [ConfigurationError.Issue] = []

    /// A file of another kind than expected would otherwise print a line for each of its lines.
    private static let maximumIssues = 50

    package init(file: String) {
        self.file = file
    }

    package func report(_ message: String, at position: SourcePosition?) {
        if issues.count < Self.maximumIssues {
            issues.append(.init(file: file, position: position, message: message))
        }
    }

    /// What is wrong with another file that this one names.
    package func add(_ error: ConfigurationError) {
        issues += error.issues.prefix(max(0, Self.maximumIssues - issues.count))
    }

    /// Throws what was collected, if anything was.
    package func throwIfAny() throws(ConfigurationError) {
        guard !issues.isEmpty else { return }
        let start = SourcePosition(line: 0, column: 0)
        throw ConfigurationError(issues: issues.sorted { ($0.position ?? start) < ($1.position ?? start) })
    }
}
