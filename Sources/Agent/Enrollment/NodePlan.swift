/// What becomes of a device's node when its credential, its configuration or its release is new. A value without I/O.
enum NodePlan: Hashable {
    /// It is healthy, and takes the new credential up by itself.
    case leave(listener: String)
    /// The supervisor that runs starts another one beside it.
    case replace(supervisor: Int32)
    /// One is started: by the service, if there is one, else by itself. The one that is named cannot hand its sockets
    /// over, and is stopped before, since it would be in the way.
    case start(stopping: Int32?)

    /// What is so now.
    struct Facts {
        var isConfigurationChanged = false
        /// The node that runs.
        var process: Int32?
        /// It runs the program of this release.
        var isCurrent = false
        var handsOver = false
        /// Where it accepts; nil where it does not.
        var listener: String?
        var hasService = false
        /// The service's, which runs.
        var supervisor: Int32?
    }

    init(_ facts: Facts) {
        let isWatched = !facts.hasService || facts.supervisor != nil
        if facts.process != nil, !facts.isConfigurationChanged, facts.isCurrent, isWatched,
            let listener = facts.listener
        {
            self = .leave(listener: listener)
        } else if facts.hasService, let supervisor = facts.supervisor {
            self = .replace(supervisor: supervisor)
        } else {
            self = .start(stopping: facts.handsOver ? nil : facts.process)
        }
    }
}
