public import Platform

/// Why a configuration was refused: everything that is wrong with it, in the order of the file.
public struct ConfigurationError: Error, Hashable, Sendable, CustomStringConvertible {
    /// One thing that is wrong.
    public struct Issue: Hashable, Sendable, CustomStringConvertible {
        public var file: String
        /// `nil` when the issue concerns the file as a whole.
        public var position: SourcePosition?
        /// What is wrong and how to mend it.
        public var message: String

        public init(file: String, position: SourcePosition?, message: String) {
            self.file = file
            self.position = position
            self.message = message
        }

        /// `FILE:LINE:COLUMN: MESSAGE`, which editors and CI systems turn into a link.
        public var description: String {
            if let position { "\(file):\(position): \(message)" } else { "\(file): \(message)" }
        }
    }

    /// Never empty.
    public var issues: [Issue]

    public init(issues: [Issue]) {
        self.issues = issues
    }

    /// One issue a line.
    public var description: String { issues.map(\.description).joined(separator: "\n") }
}

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

    /// Throws what was collected, if anything was.
    package func throwIfAny() throws(ConfigurationError) {
        guard !issues.isEmpty else { return }
        let start = SourcePosition(line: 0, column: 0)
        throw ConfigurationError(issues: issues.sorted { ($0.position ?? start) < ($1.position ?? start) })
    }
}
