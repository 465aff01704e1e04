import SSHSignal

/// What a service runs, and how it is called: one for each installation, so that several on a machine do not meet.
struct ServiceDescription: Hashable {
    /// `bootstrap-node`, for the usual places; else with the beginning of the root's hash behind it.
    let name: String
    /// Absolute: `ROOT/current/bootstrap`.
    let program: String
    /// Absolute.
    let state: String

    var arguments: [String] { [program, "supervise", "--state", state] }

    /// - Parameter state: absolute; its parent is what the installation's name is made of.
    init(program: String, state: String) {
        self.program = program
        self.state = state
        name = ServiceName(state: state).description
    }

    /// Unit files, crontabs and scripts each quote in their own way; a path that needs none is the same in all of them.
    var isPlain: Bool {
        (program + state).utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"):
                true
            default: "/._+-@:,".utf8.contains(byte)
            }
        }
    }
}
