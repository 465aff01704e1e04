import CLinux
import Glibc

/// What others may learn of this process's memory, where private keys are.
package enum ProcessMemory {
    /// No core dump of this process has anything of it in it, wherever it goes: `core(5)` does not ask the limit when a
    /// program takes the dump. What it starts inherits that.
    package static func isNotDumped() {
        var none = rlimit(rlim_cur: 0, rlim_max: 0)
        setrlimit(__rlimit_resource_t(RLIMIT_CORE.rawValue), &none)
        let filter = open("/proc/self/coredump_filter", O_WRONLY | O_CLOEXEC)
        guard filter >= 0 else { return }
        _ = write(filter, "0", 1)
        close(filter)
    }

    /// Beside that, no other process of the same user reads it with a debugger; `/proc/PID` is root's from then on. For
    /// who holds the key of a CA.
    package static func isHidden() { _ = clinux_hide_memory() }
}
