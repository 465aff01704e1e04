import Glibc
import Platform

/// A value that one thread at a time can reach.
///
/// The same as `Synchronization.Mutex`, but on pthread's mutex: Thread Sanitizer does not see the futex calls of the
/// former (Swift 6.3) and takes every value it protects, and all that is handed over through it, for a race.
package final class Lock<Value: Sendable>: @unchecked Sendable {
    // @unchecked Sendable, the proof: `value` is reached only in `withLock`, between lock and unlock; the mutex has an
    // address of its own and is destroyed with the last reference.
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>
    private var value: Value

    package init(_ value: Value) {
        self.value = value
        mutex = .allocate(capacity: 1)
        mutex.initialize(to: pthread_mutex_t())
        let result = pthread_mutex_init(mutex, nil)
        precondition(result == 0, "pthread_mutex_init failed: \(StreamError.describe(errno: result))")
    }

    deinit {
        pthread_mutex_destroy(mutex)
        mutex.deallocate()
    }

    /// Calls `body` with the value, alone. Must not be nested, and nothing that may call back should be released
    /// inside.
    package func withLock<Result>(_ body: (inout Value) throws -> Result) rethrows -> Result {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        return try body(&value)
    }
}
