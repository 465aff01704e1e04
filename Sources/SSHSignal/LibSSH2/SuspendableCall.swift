import Glibc

/// A call into C that can stop in the middle, inside a callback, until what it waits for is there.
///
/// libssh2 wants the answers of keyboard-interactive authentication from inside its callback, at once; a person takes a
/// minute. So the call runs on a thread of its own, which is used as a coroutine: the loop's thread waits while the
/// call runs, and the call waits while the loop runs. The two never run at the same time.
// Sendable: every access to the state below, and to whatever `body` touches, is ordered by the two semaphores; one
// thread waits while the other runs.
final class SuspendableCall: @unchecked Sendable {
    enum Progress: Equatable {
        case returned(Int32)
        case suspended
    }

    private let body: () -> Int32
    private let again: Int32
    private let toCall = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)
    private let toLoop = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)
    private var progress = Progress.suspended
    private var thread: pthread_t?
    private(set) var isCancelled = false

    /// - Parameters:
    ///   - body: Called again each time that it returned `again` and the loop resumes.
    init(again: Int32, _ body: @escaping () -> Int32) {
        self.body = body
        self.again = again
        sem_init(toCall, 0, 0)
        sem_init(toLoop, 0, 0)
    }

    deinit {
        precondition(thread == nil, "a suspendable call was let go before its end")
        sem_destroy(toCall)
        sem_destroy(toLoop)
        toCall.deallocate()
        toLoop.deallocate()
    }

    /// The loop's side: runs the call until it returns or suspends. Not again after it has returned anything but
    /// `again`.
    func resume() throws(SSHError) -> Progress {
        if thread == nil {
            var thread = pthread_t()
            let context = Unmanaged.passRetained(self)
            let result = pthread_create(&thread, nil, threadMain, context.toOpaque())
            guard result == 0 else {
                context.release()
                throw SSHError(.system, "a thread cannot be started: \(String(cString: strerror(result)))")
            }
            self.thread = thread
        }
        sem_post(toCall)
        wait(toLoop)
        if case .returned(let result) = progress, result != again || isCancelled { join() }
        return progress
    }

    /// The call's side, from inside the callback: the loop goes on until it resumes the call.
    func suspend() {
        progress = .suspended
        sem_post(toLoop)
        wait(toCall)
    }

    /// The loop's side: ends the call, which finds ``isCancelled`` set wherever it waits. Idempotent.
    func cancel() {
        isCancelled = true
        while thread != nil { _ = try? resume() }
    }

    private func join() {
        guard let thread else { return }
        pthread_join(thread, nil)
        self.thread = nil
    }

    fileprivate func run() {
        wait(toCall)
        while !isCancelled {
            let result = body()
            progress = .returned(result)
            if result != again || isCancelled { break }
            sem_post(toLoop)
            wait(toCall)
        }
        if case .suspended = progress { progress = .returned(again) }
        sem_post(toLoop)
    }

    private func wait(_ semaphore: UnsafeMutablePointer<sem_t>) {
        while sem_wait(semaphore) != 0 && errno == EINTR {}
    }
}

private let threadMain: @convention(c) (UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? = { argument in
    guard let argument else { return nil }
    Unmanaged<SuspendableCall>.fromOpaque(argument).takeRetainedValue().run()
    return nil
}
