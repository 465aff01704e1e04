/// `ControlMaster` of `ssh_config(5)`: who listens on the control socket.
package enum ControlMaster: Hashable, Sendable {
    /// Only a master that is there already is used.
    case no
    /// This process, and no other one is used.
    case yes
    /// The first one.
    case auto
    /// Each one that wants to share would have to be asked about.
    case ask

    /// nil where `ssh` would not take it.
    init?(_ text: String) {
        switch text.lowercased() {
        case "no", "false": self = .no
        case "yes", "true": self = .yes
        case "auto": self = .auto
        case "ask", "autoask": self = .ask
        default: return nil
        }
    }
}
