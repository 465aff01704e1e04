/// What happens while something is done with a device.
package enum EnrollmentProgress: Hashable, Sendable {
    /// A step is done: "probe", what came of it, and how long it took; nil where that was a part of the step
    /// before it.
    case step(String, String, Duration?)
    case warning(String)
    /// Bytes of the agent that were sent, of how many.
    case uploading(Int, total: Int)
}
