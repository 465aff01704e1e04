/// Processes that take a node's place one after the other, by the number that each has chosen by chance and says in its
/// SETTINGS (docs/protocol.md, 2.10); 0: it has not said.
enum NodeProcess {
    /// Whether the two are known not to be one: what only the first has is not to be asked of the other.
    static func isAnother(_ other: UInt32, than process: UInt32) -> Bool {
        process != 0 && other != 0 && process != other
    }
}
