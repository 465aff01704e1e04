import CLinux
import Glibc

/// A program that is run to its end: input on standard input, what it prints comes back.
///
/// The program's end counts, not that of its output: something it leaves running may hold the pipes open.
package struct ProgramRun: Sendable {
    package enum Errors: Sendable {
        /// In the output, in the order they came.
        case withOutput
        /// Apart; the end of them is kept, so many bytes: that is where the reason is.
        case tail(Int)
    }

    package enum Overflow: Sendable {
        /// What comes beyond the limit is dropped.
        case drop
        /// The pipe is closed: a program that goes on writing is ended by SIGPIPE.
        case close
    }

    /// In a group of its own, so that the end of the time ends also what it has started.
    package var program: Program
    package var timeout: Duration
    package var errors: Errors
    /// Of the output; one more byte is read, and tells that there was too much.
    package var outputLimit = 1 << 20
    package var overflow = Overflow.drop

    package struct Outcome: Sendable {
        /// nil: it did not end in time, and was ended with its group.
        package var status: ProgramEnd?
        package var output: [UInt8]
        /// With ``Errors/tail(_:)``.
        package var errors: [UInt8]
        /// There was more output than the limit.
        package var isTooLong: Bool
    }

    package init(_ program: Program, timeout: Duration, errors: Errors) {
        self.program = program
        self.program.group = .own
        self.timeout = timeout
        self.errors = errors
    }

    /// Blocks.
    ///
    /// - Throws: why it could not be started.
    package func run(input: [UInt8] = []) throws(SystemError) -> Outcome {
        try withoutPipeSignal { () throws(SystemError) in
            var exchange = try ProgramExchange(self, input: input)
            exchange.run(until: ContinuousClock.now + timeout)
            return exchange.outcome
        }
    }

    /// The same for async code: on a thread of its own, since the threads that tasks share must not block.
    package func onThread(input: [UInt8] = []) async throws(SystemError) -> Outcome {
        let outcome: Result<Outcome, SystemError> = await withCheckedContinuation { continuation in
            startThread {
                continuation.resume(returning: Result { () throws(SystemError) in try run(input: input) })
            }
        }
        return try outcome.get()
    }
}

/// Writing to a program that does not read is an error meanwhile, not a signal.
private func withoutPipeSignal<Success>(_ body: () throws(SystemError) -> Success) throws(SystemError) -> Success {
    var (pipe, before, pending) = (sigset_t(), sigset_t(), sigset_t())
    sigemptyset(&pipe)
    sigaddset(&pipe, SIGPIPE)
    sigpending(&pending)
    pthread_sigmask(SIG_BLOCK, &pipe, &before)
    defer {
        if sigismember(&pending, SIGPIPE) == 0 {
            var none = timespec()
            while sigtimedwait(&pipe, nil, &none) > 0 {}
        }
        pthread_sigmask(SIG_SETMASK, &before, nil)
    }
    return try body()
}

/// The process and our ends of its pipes.
private struct ProgramExchange: ~Copyable {
    private let process: StartedProgram
    private let options: ProgramRun
    private let bytes: [UInt8]
    private var written = 0
    /// Readable when the process has ended; nil where the kernel does not tell.
    private let ended: Int32?
    private var input: Int32
    private var sources: [Int32]
    private(set) var outcome = ProgramRun.Outcome(status: nil, output: [], errors: [], isTooLong: false)

    init(_ run: ProgramRun, input: [UInt8]) throws(SystemError) {
        var pipes: [[Int32]] = []
        // The child's ends are closed in any case.
        defer { for (index, pipe) in pipes.enumerated() { close(pipe[index == 0 ? 0 : 1]) } }
        let isApart = if case .tail = run.errors { true } else { false }
        for _ in 0..<(isApart ? 3 : 2) {
            var ends: [Int32] = [-1, -1]
            guard clinux_pipe(&ends) == 0 else {
                let error = SystemError(errno)
                for (index, pipe) in pipes.enumerated() { close(pipe[index == 0 ? 1 : 0]) }
                throw error
            }
            pipes.append(ends)
        }
        do throws(SystemError) {
            process = try run.program.start(input: pipes[0][0], output: pipes[1][1], errors: pipes[isApart ? 2 : 1][1])
        } catch {
            for (index, pipe) in pipes.enumerated() { close(pipe[index == 0 ? 1 : 0]) }
            throw error
        }
        options = run
        bytes = input
        self.input = pipes[0][1]
        sources = pipes.dropFirst().map { $0[0] }
        ended = process.openDescriptor()
        for end in sources + [self.input] { _ = fcntl(end, F_SETFL, O_NONBLOCK) }
    }

    deinit {
        if outcome.status == nil { process.endGroup() }
        for end in sources + [input, ended ?? -1] where end >= 0 { close(end) }
    }

    /// Feeds and drains the program until it ends, or time is up.
    mutating func run(until deadline: ContinuousClock.Instant) {
        feed()
        while true {
            if let status = process.reapIfEnded() {
                outcome.status = status
                return drain()
            }
            let left = deadline - ContinuousClock.now
            guard left > .zero else { return }
            var polled = [pollfd(fd: input, events: Int16(POLLOUT), revents: 0)]
            polled += sources.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
            polled.append(pollfd(fd: ended ?? -1, events: Int16(POLLIN), revents: 0))
            // poll skips negative descriptors. Without one for the end it is looked for often, and more so when all
            // pipes are closed.
            let isQuiet = sources.allSatisfy { $0 < 0 } && input < 0
            let most: Duration = ended != nil ? .seconds(60) : isQuiet ? .milliseconds(5) : .milliseconds(50)
            poll(&polled, nfds_t(polled.count), max(1, Int32(min(left, most) / .milliseconds(1))))
            if polled[0].revents != 0 { feed() }
            drain()
        }
    }

    private mutating func feed() {
        guard input >= 0 else { return }
        let count = bytes[written...].withUnsafeBytes { write(input, $0.baseAddress, $0.count) }
        if count > 0 { written += count }
        let isOver = count < 0 && errno != EAGAIN && errno != EINTR
        if isOver || written == bytes.count { input = closing(input) }
    }

    private mutating func drain() {
        var chunk = [UInt8](repeating: 0, count: 16 << 10)
        for index in sources.indices {
            // Bounded, for a program that prints for ever; more than a pipe holds, so that at the end nothing is left
            // in it.
            for _ in 0..<16 where sources[index] >= 0 {
                let count = read(sources[index], &chunk, chunk.count)
                if count < 0 && errno == EINTR { continue }
                if count < 0 && errno == EAGAIN { break }
                guard count > 0 else {
                    sources[index] = closing(sources[index])
                    break
                }
                if index == 0 { took(chunk[..<count]) } else { complained(chunk[..<count]) }
            }
        }
    }

    private mutating func took(_ chunk: ArraySlice<UInt8>) {
        let room = options.outputLimit - outcome.output.count
        outcome.output += chunk.prefix(room)
        guard chunk.count > room else { return }
        outcome.isTooLong = true
        if options.overflow == .close { sources[0] = closing(sources[0]) }
    }

    private mutating func complained(_ chunk: ArraySlice<UInt8>) {
        guard case .tail(let limit) = options.errors else { return }
        outcome.errors = (outcome.errors + chunk).suffix(limit)
    }

    private func closing(_ descriptor: Int32) -> Int32 {
        if descriptor >= 0 { close(descriptor) }
        return -1
    }
}
