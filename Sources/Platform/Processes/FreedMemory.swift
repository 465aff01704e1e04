import CLinux
import Glibc
import Synchronization

/// What the allocator keeps of a flood that is over.
package enum FreedMemory {
    private static let isGivingBack = Atomic<Bool>(false)

    /// It goes back to the system: a peer must not decide for how long a node is large. On a thread of its own, and not
    /// at once: the rest of the flood is about to be freed as well. Safe from any thread.
    ///
    /// - Returns: Whether it is for this flood: where memory is about to be given back already, ask again.
    package static func giveBackSoon() -> Bool {
        guard !isGivingBack.exchange(true, ordering: .relaxed) else { return false }
        do throws(SystemError) {
            try startOwnThread {
                sleep(1)
                isGivingBack.store(false, ordering: .relaxed)
                clinux_trim_memory()
            }
        } catch {
            // After the next flood, then: the caller is an event loop, which must not sleep.
            isGivingBack.store(false, ordering: .relaxed)
        }
        return true
    }
}
