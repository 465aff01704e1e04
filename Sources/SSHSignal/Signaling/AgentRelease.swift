/// The version of this program.
public enum AgentRelease {
    public static let version = "0.1.0"
    /// As it introduces itself to the other side.
    public static let software = "bootstrap \(version)"
}
