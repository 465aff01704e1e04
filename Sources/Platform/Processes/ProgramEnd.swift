/// How a process ended.
package enum ProgramEnd: Hashable, Sendable, CustomStringConvertible {
    /// 0 to 255.
    case exited(Int32)
    case signalled(Int32)

    /// - Parameter waitStatus: As waitpid(2) tells it.
    package init(waitStatus: Int32) {
        let signal = waitStatus & 0x7F
        self = signal == 0 ? .exited(waitStatus >> 8 & 0xFF) : .signalled(signal)
    }

    package var isSuccess: Bool { self == .exited(0) }

    /// One number for both, as a shell has it: 128 and the signal's number for a process that a signal ended.
    package var shellStatus: Int32 {
        switch self {
        case .exited(let status): status
        case .signalled(let signal): 128 + signal
        }
    }

    package var description: String {
        switch self {
        case .exited(let status): "status \(status)"
        case .signalled(let signal): "signal \(signal)"
        }
    }
}
