/// Why a configuration was refused: everything that is wrong with it, in the order of the file.
public struct ConfigurationError: Error, Hashable, Sendable, CustomStringConvertible {
    /// One thing that is wrong.
    public struct Issue: Hashable, Sendable, CustomStringConvertible {
        /// The file's path, or what it is called where the text came from elsewhere.
        public var file: String
        /// `nil` when the issue concerns the file as a whole.
        public var position: SourcePosition?
        /// What is wrong and how to fix it.
        public var message: String

        /// - Parameters:
        ///   - file: Its path, or what it is called.
        ///   - position: nil when the issue concerns the file as a whole.
        ///   - message: What is wrong and how to fix it.
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

    /// - Parameter issues: At least one, in the order of the file.
    public init(issues: [Issue]) {
        self.issues = issues
    }

    /// One issue a line.
    public var description: String { issues.map(\.description).joined(separator: "\n") }
}
