import ArgumentParser
import Synchronization

/// Why a command ends whose parts fail because of each other: the first reason is printed, at once, and gives the exit
/// code.
final class CommandEnd: Sendable {
    private let code = Mutex<ExitCode?>(nil)

    /// - Returns: The code of the first reason, which may be another one.
    func fail(_ message: String, _ code: ExitCode) -> ExitCode {
        self.code.withLock { first in
            if let first { return first }
            // While the lock is held: who is second must not end the process before this is printed.
            let printed = bootstrap.fail(message, code)
            first = printed
            return printed
        }
    }

    /// The command ends in order; what fails from now on fails because of that.
    func finish() { code.withLock { if $0 == nil { $0 = .success } } }
}
