import ArgumentParser
import Glibc
import Synchronization
import UnixSignals

/// Runs work that goes on until somebody stops it by a signal, which is how it is meant to end: its task is cancelled.
///
/// - Throws: what `body` throws before that.
func untilStopped(_ body: @escaping @Sendable () async throws -> Void) async throws {
    let signals = await UnixSignalsSequence(trapping: trappable([.sigint, .sigterm, .sighup]))
    try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask {
            for await _ in signals { return }
        }
        group.addTask { try await body() }
        defer { group.cancelAll() }
        try await group.next()
    }
}

/// Runs work that has something to put in order when somebody stops it: its task is cancelled by the first signal, and
/// the process ends with the second, or when the work takes too long.
///
/// - Throws: 128 and the signal, as a shell has it, when it was stopped; otherwise what `body` throws.
func stoppable(_ body: @escaping @Sendable () async throws -> Void) async throws {
    let signals = await UnixSignalsSequence(trapping: trappable([.sigint, .sigterm, .sighup]))
    let stopped = Mutex<ExitCode?>(nil)
    let work = Task { try await body() }
    let watcher = Task {
        for await signal in signals {
            let code = ExitCode(128 + (signal == .sigint ? SIGINT : signal == .sigterm ? SIGTERM : SIGHUP))
            let isFirst = stopped.withLock { stopped in
                defer { stopped = code }
                return stopped == nil
            }
            guard isFirst else { _exit(code.rawValue) }
            // Who is asked a question waits for nothing.
            let wasAsking = TerminalPrompt.abandon()
            work.cancel()
            Task {
                try? await Task.sleep(for: wasAsking ? .milliseconds(100) : .seconds(10))
                _exit(code.rawValue)
            }
        }
    }
    let result = await work.result
    watcher.cancel()
    if let code = stopped.withLock({ $0 }) { throw code }
    try result.get()
}
