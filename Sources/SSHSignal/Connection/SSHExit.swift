/// How a command ended.
public enum SSHExit: Hashable, Sendable, CustomStringConvertible {
    /// Its exit status. libssh2 cannot tell a status that the server did not send from 0: where it matters, have the
    /// command print what proves its success.
    case status(Int32)
    /// The signal that ended it, without "SIG".
    case signal(String)

    public var description: String {
        switch self {
        case .status(let status): "exit status \(status)"
        case .signal(let name): "signal \(name)"
        }
    }

    /// Exit status 0.
    public var isSuccess: Bool { self == .status(0) }
}
