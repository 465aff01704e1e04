import CLinux
import Glibc
import Synchronization

/// What the allocator keeps of a flood that is over.
package enum FreedMemory {
    private enum State {
        static let kept = 0
        static let asked = 1
        /// After the flood that it was asked for there was another one.
        static let askedAgain = 2
    }

    private static let state = Atomic<Int>(State.kept)

    /// It goes back to the system: a peer must not decide for how long a node is large. On a thread of its own, and not
    /// at once: the rest of the flood is about to be freed as well. Safe from any thread.
    package static func giveBackSoon() {
        guard state.exchange(State.askedAgain, ordering: .relaxed) == State.kept else { return }
        do throws(SystemError) {
            try startOwnThread {
                repeat {
                    sleep(1)
                    state.store(State.asked, ordering: .relaxed)
                    clinux_trim_memory()
                } while !state.compareExchange(
                    expected: State.asked,
                    desired: State.kept,
                    ordering: .relaxed
                ).exchanged
            }
        } catch {
            // After the next flood, then: the caller is an event loop, which must not sleep.
            state.store(State.kept, ordering: .relaxed)
        }
    }
}
