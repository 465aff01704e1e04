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

/// `ControlPersist` of `ssh_config(5)`: what becomes of shared paths once the process has ended that they were made
/// for.
package enum ControlPersist: Hashable, Sendable {
    /// They end with it.
    case no
    /// They stay, in the background, until nobody has used them for so long; nil: until somebody ends them.
    case yes(Duration?)

    /// nil where `ssh` would not take it.
    init?(_ text: String) {
        switch text.lowercased() {
        case "no", "false": self = .no
        case "yes", "true": self = .yes(nil)
        default:
            guard let seconds = ConfigurationEvaluation.seconds(text) else { return nil }
            self = .yes(seconds > 0 ? .seconds(seconds) : nil)
        }
    }

    package var isOn: Bool { self != .no }

    /// nil: for ever, or not at all.
    package var limit: Duration? { if case .yes(let limit) = self { limit } else { nil } }
}
