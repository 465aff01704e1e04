/// A destination, an option or a line of an `ssh_config` file that cannot be used, with where it stands and why.
public struct SSHConfigurationError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The file the line was read from; nil for what was given on the command line.
    public var file: String?
    /// Counted from 1; nil where no line is to blame.
    public var line: Int?
    /// What is wrong, for people.
    public var message: String

    /// - Parameters:
    ///   - file: The file the line was read from.
    ///   - line: Counted from 1.
    ///   - message: What is wrong.
    public init(file: String? = nil, line: Int? = nil, _ message: String) {
        self.file = file
        self.line = line
        self.message = message
    }

    public var description: String {
        guard let file else { return message }
        guard let line else { return "\(file): \(message)" }
        return "\(file):\(line): \(message)"
    }
}
