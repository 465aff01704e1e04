import Glibc
import Synchronization

/// An exclusive lock on a directory (flock(2)): it ends with its process, whatever becomes of that.
package final class FileLock: Sendable {
    /// The descriptor; -1 once unlocked.
    private let file: Atomic<Int32>

    /// - Parameter patience: how long to wait for another holder; with zero it fails at once.
    package init(directory: String, patience: Duration) throws(FileError) {
        let file = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard file >= 0 else { throw AtomicFile.failure("open", directory) }
        let deadline = ContinuousClock.now + patience
        while flock(file, LOCK_EX | LOCK_NB) != 0 {
            let code = errno
            if code == EINTR { continue }
            guard code == EWOULDBLOCK, ContinuousClock.now < deadline else {
                close(file)
                guard code == EWOULDBLOCK else { throw AtomicFile.failure("lock", directory, errno: code) }
                throw FileError(.timedOut, "another process is writing in \(directory); try again when it is done")
            }
            usleep(5000)
        }
        self.file = Atomic(file)
    }

    deinit { unlock() }

    /// Unlocks now; later calls do nothing.
    package func unlock() {
        let file = file.exchange(-1, ordering: .acquiringAndReleasing)
        if file >= 0 { close(file) }
    }
}
