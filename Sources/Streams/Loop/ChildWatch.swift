import Glibc
package import Platform

/// Waits on an event loop for the end of a child process, and reaps it. The loop retains it until then; when the loop
/// stops first, the child is killed: one that nobody reaps stays a zombie for as long as this process lives, and other
/// code that waits for any child trips over it.
package final class ChildWatch: PollHandler {
    private let child: StartedProgram
    private let loop: EventLoop
    private let onEnd: (ProgramEnd) -> Void
    /// Once it is reaped its number may be another process's.
    private let isReaped = Lock(false)
    /// Readable when the child has ended; −1 before Linux 5.3, where it is looked for.
    private let descriptor: Int32
    private var timer: LoopTimer?

    private static var tick: Duration { .milliseconds(20) }

    /// Loop only.
    ///
    /// - Parameters:
    ///   - child: To be reaped by nobody else.
    ///   - loop: What is told.
    ///   - onEnd: Called once, on the loop, never from inside this call; not when the loop stops first.
    package init(_ child: StartedProgram, on loop: EventLoop, onEnd: @escaping (ProgramEnd) -> Void) {
        self.child = child
        self.loop = loop
        self.onEnd = onEnd
        descriptor = child.openDescriptor() ?? -1
        if descriptor >= 0, (try? loop.register(descriptor, handler: self, for: .level)) != nil { return }
        let timer = LoopTimer(on: loop) { [self] in look() }
        self.timer = timer
        timer.schedule(after: Self.tick)
    }

    deinit {
        endNow()
        if descriptor >= 0 { close(descriptor) }
    }

    /// Sends a signal, unless the child has been reaped. From any thread.
    package func signal(_ number: Int32) {
        isReaped.withLock { isReaped in
            if !isReaped { child.signal(number) }
        }
    }

    func pollReady(_ events: PollEvents) {
        guard let status = reap() else { return }
        loop.unregister(descriptor)
        onEnd(status)
    }

    func loopStopped() { endNow() }

    private func look() {
        guard let status = reap() else {
            timer?.schedule(after: Self.tick)
            return
        }
        timer = nil
        onEnd(status)
    }

    private func reap() -> ProgramEnd? {
        isReaped.withLock { isReaped in
            guard !isReaped, let status = child.reapIfEnded() else { return nil }
            isReaped = true
            return status
        }
    }

    private func endNow() {
        isReaped.withLock { isReaped in
            guard !isReaped else { return }
            isReaped = true
            child.signal(SIGKILL)
            child.wait()
        }
    }
}
