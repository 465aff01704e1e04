/// The version of this program.
package enum AgentRelease {
    package static let version = "0.1.0"
    /// As it introduces itself to the other side.
    package static let software = "bootstrap \(version)"
}
