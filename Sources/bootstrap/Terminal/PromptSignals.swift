import CLinux
import Glibc
import Synchronization

/// The signals that end or stop this process, kept while somebody is asked: the terminal, which may not echo, is put in
/// order first, and then they are given to whom they were for. One for the process: handlers know nothing but globals.
///
/// As readpassphrase(3) does it, except that a signal may come on any thread, and is therefore sent through a pipe to
/// the one that waits for the answer.
enum PromptSignals {
    /// In the order of ``before``.
    private static let numbers = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP]
    /// Where the handler writes; -1 while nobody is asked.
    private static let writer = Atomic<Int32>(-1)
    private static let interrupted = Atomic(false)

    /// Somebody has answered a question with Ctrl-C: whatever fails now, and that this process ends, is because of it.
    static var wereInterrupted: Bool { interrupted.load(ordering: .acquiring) }

    /// What was there before, and the pipe's end to wait at.
    struct Kept {
        fileprivate var before: [(number: Int32, action: sigaction)]
        /// Readable once a signal has come; what is read is its number.
        let reader: Int32
    }

    /// - Returns: nil where there are no descriptors for a pipe.
    static func keep() -> Kept? {
        var ends: [Int32] = [-1, -1]
        guard pipe2(&ends, O_CLOEXEC | O_NONBLOCK) == 0 else { return nil }
        writer.store(ends[1], ordering: .releasing)
        var kept = Kept(before: [], reader: ends[0])
        for number in numbers {
            var (action, before) = (sigaction(), sigaction())
            sigaction(number, nil, &before)
            // Who does not care for a signal (nohup) is not made to.
            guard !before.ignores else { continue }
            action.__sigaction_handler.sa_handler = { PromptSignals.received($0) }
            sigaction(number, &action, nil)
            kept.before.append((number, before))
        }
        return kept
    }

    /// Everything as it was before.
    ///
    /// - Returns: The signals that came.
    static func release(_ kept: Kept) -> [Int32] {
        for (number, before) in kept.before {
            var before = before
            sigaction(number, &before, nil)
        }
        let descriptor = writer.exchange(-1, ordering: .acquiringAndReleasing)
        var bytes = [UInt8](repeating: 0, count: 16)
        let count = read(kept.reader, &bytes, bytes.count)
        close(descriptor)
        close(kept.reader)
        return bytes.prefix(max(0, count)).map(Int32.init)
    }

    /// Gives a signal that came to whom it was for: who does not trap Ctrl-C ends here, with the status that a shell
    /// has for it.
    static func deliver(_ number: Int32) {
        if number == SIGINT { interrupted.store(true, ordering: .releasing) }
        var action = sigaction()
        sigaction(number, nil, &action)
        if number == SIGINT, action.isDefault { _exit(interruptedStatus) }
        kill(getpid(), number)
        // Any thread may be the one that it comes to: this one has nothing more to say.
        if number != SIGTSTP, action.isDefault { while true { pause() } }
    }

    /// What a shell has for a program that Ctrl-C has ended.
    static let interruptedStatus = 128 + SIGINT

    /// In a signal handler: atomics and write(2) only.
    private static func received(_ number: Int32) {
        let saved = errno
        var byte = UInt8(truncatingIfNeeded: number)
        _ = write(writer.load(ordering: .acquiring), &byte, 1)
        errno = saved
    }
}

extension sigaction {
    private var handler: Int { unsafeBitCast(__sigaction_handler.sa_handler, to: Int.self) }
    fileprivate var isDefault: Bool { handler == 0 }
    fileprivate var ignores: Bool { handler == 1 }
}
