import CLinux
import Glibc
import Platform
import Streams

/// Waits for the end of a child process on a thread of its own, and reaps it, whatever becomes of the event loop that wanted to know: a child
/// that nobody reaps stays a zombie for as long as the parent lives, and other code of the parent that waits for any child trips over it.
final class ChildWatch: Sendable {
    private let pid: pid_t
    /// Once it is reaped its number may be another process's.
    private let isReaped = Lock(false)

    init(_ pid: pid_t) { self.pid = pid }

    /// To be called once.
    ///
    /// - Parameter onEnd: Called on that thread, with the status of `waitpid(2)`.
    func start(_ onEnd: @escaping @Sendable (Int32) -> Void) {
        let work = Unmanaged.passRetained(Work(watch: self, onEnd: onEnd))
        var attributes = pthread_attr_t()
        pthread_attr_init(&attributes)
        pthread_attr_setdetachstate(&attributes, Int32(PTHREAD_CREATE_DETACHED))
        pthread_attr_setstacksize(&attributes, 256 << 10)
        defer { pthread_attr_destroy(&attributes) }
        var thread = pthread_t()
        let result = pthread_create(
            &thread,
            &attributes,
            { argument in
                if let argument { Unmanaged<Work>.fromOpaque(argument).takeRetainedValue().run() }
                return nil
            },
            work.toOpaque()
        )
        // Without threads there is no event loop either.
        precondition(result == 0, "pthread_create: \(StreamError.describe(errno: result))")
    }

    /// Sends a signal, unless it has ended.
    func signal(_ number: Int32) {
        isReaped.withLock { isReaped in
            if !isReaped { kill(pid, number) }
        }
    }

    private func wait() -> Int32 {
        var information = siginfo_t()
        // Left to be reaped: until the lock is held its number must stay its own.
        while waitid(P_PID, id_t(pid), &information, WEXITED | WNOWAIT) < 0, errno == EINTR {}
        return isReaped.withLock { isReaped in
            var status: Int32 = 0
            waitpid(pid, &status, 0)
            isReaped = true
            return status
        }
    }

    private final class Work {
        let watch: ChildWatch
        let onEnd: @Sendable (Int32) -> Void

        init(watch: ChildWatch, onEnd: @escaping @Sendable (Int32) -> Void) {
            self.watch = watch
            self.onEnd = onEnd
        }

        func run() { onEnd(watch.wait()) }
    }
}
