import CLinux
import Glibc

/// A process that this one has started, and has to reap. Its number is its own until then, so whoever reaps it sends it
/// no signal afterwards.
package struct StartedProgram: Hashable, Sendable {
    package let pid: Int32

    package init(pid: Int32) { self.pid = pid }

    /// Reaps it, if it has ended. Does not wait.
    package func reapIfEnded() -> ProgramEnd? {
        var status: Int32 = 0
        return waitpid(pid, &status, WNOHANG) == pid ? ProgramEnd(waitStatus: status) : nil
    }

    /// Waits for its end and reaps it. Blocks.
    @discardableResult
    package func wait() -> ProgramEnd {
        var status: Int32 = 0
        while waitpid(pid, &status, 0) < 0, errno == EINTR {}
        return ProgramEnd(waitStatus: status)
    }

    package func signal(_ number: Int32) { kill(pid, number) }

    /// Ends it and what it has started in its group (``Program/Group/own``), and reaps it.
    package func endGroup() {
        kill(-pid, SIGKILL)
        wait()
    }

    /// A descriptor that is readable when it has ended, the caller's to close; nil before Linux 5.3.
    package func openDescriptor() -> Int32? {
        let descriptor = clinux_pidfd_open(pid)
        return descriptor >= 0 ? descriptor : nil
    }
}
