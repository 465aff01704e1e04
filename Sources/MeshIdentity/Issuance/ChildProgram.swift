import Glibc
import Platform
import Synchronization

/// A program that is run once: input on stdin, result on stdout, complaints on stderr.
struct ChildProgram: Sendable {
    /// The program, found in PATH unless it has a slash, and its arguments.
    let command: [String]
    /// `NAME=VALUE`, added to our own environment.
    let environment: [String]
    let timeout: Duration

    /// More than this on stdout is an error.
    static let outputLimit = 1 << 20
    /// Of stderr the end is kept: that is where the reason is.
    static let complaintLimit = 2048

    /// What it printed on stdout. Fails unless it exits with status 0 in time; the error has the end of its stderr.
    func run(input: [UInt8]) async throws(IdentityError) -> [UInt8] {
        // On a thread of its own: it blocks, and the threads that tasks share must not.
        let outcome = await withCheckedContinuation { continuation in
            startThread {
                continuation.resume(returning: Result { () throws(IdentityError) in try runBlocking(input: input) })
            }
        }
        return try outcome.get()
    }

    private func runBlocking(input: [UInt8]) throws(IdentityError) -> [UInt8] {
        // Of this thread only, which ends with the run: writing to a program that does not read is an error then.
        var pipeSignal = sigset_t()
        sigemptyset(&pipeSignal)
        sigaddset(&pipeSignal, SIGPIPE)
        pthread_sigmask(SIG_BLOCK, &pipeSignal, nil)

        // One start at a time: between pipe(2) and setting close-on-exec another child could inherit our pipes, and hold
        // the stdin open that this one waits for the end of. Swift's Glibc has no pipe2(2).
        var running = try starting.withLock { _ throws(IdentityError) in
            try RunningProgram(command: command, environment: environment)
        }
        let deadline = ContinuousClock.now + timeout
        let status = running.exchange(input: input, until: deadline)
        let name = command.first ?? ""
        let complaint = running.complaint.isEmpty ? "" : ": \(running.complaint)"
        guard let status else {
            throw IdentityError(.timedOut, "the issuer \(name) did not end within \(timeout)\(complaint)")
        }
        guard status == 0 else {
            let signal = status & 0x7F
            let end = signal == 0 ? "exited with status \(status >> 8 & 0xFF)" : "was ended by signal \(signal)"
            throw IdentityError(.issuer, "the issuer \(name) \(end)\(complaint)")
        }
        guard running.output.count <= Self.outputLimit else {
            throw IdentityError(.issuer, "the issuer \(name) printed more than \(Self.outputLimit) bytes")
        }
        return running.output
    }
}

private let starting = Mutex(())

/// The process and our ends of its pipes.
private struct RunningProgram: ~Copyable {
    private let pid: pid_t
    private var input: Int32
    private var outputs: [Int32]
    private(set) var output: [UInt8] = []
    private var errors: [UInt8] = []
    private var isReaped = false

    init(command: [String], environment: [String]) throws(IdentityError) {
        guard let program = command.first, !program.isEmpty else {
            throw IdentityError(.issuer, "the issuer's command is empty")
        }
        var pipes: [[Int32]] = []
        for _ in 0..<3 {
            var ends: [Int32] = [-1, -1]
            guard pipe(&ends) == 0 else {
                for end in pipes.joined() { close(end) }
                throw IdentityError(AtomicFile.failure("make a pipe for", program))
            }
            for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
            pipes.append(ends)
        }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, pipes[0][0], 0)
        posix_spawn_file_actions_adddup2(&actions, pipes[1][1], 1)
        posix_spawn_file_actions_adddup2(&actions, pipes[2][1], 2)
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var (none, all) = (sigset_t(), sigset_t())
        sigemptyset(&none)
        sigfillset(&all)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setsigdefault(&attributes, &all)
        // A group of its own: a timeout ends what the program started, too.
        posix_spawnattr_setpgroup(&attributes, 0)
        posix_spawnattr_setflags(
            &attributes,
            Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP)
        )
        let arguments = command.map { strdup($0) } + [nil]
        let names = environment.compactMap { $0.split(separator: "=").first.map { "\($0)=" } }
        let inherited = Self.environment.filter { line in !names.contains { line.hasPrefix($0) } }
        let variables = (inherited + environment).map { strdup($0) } + [nil]
        defer { for string in arguments + variables { free(string) } }
        var pid: pid_t = 0
        let code = posix_spawnp(&pid, program, &actions, &attributes, arguments, variables)
        for end in [pipes[0][0], pipes[1][1], pipes[2][1]] { close(end) }
        guard code == 0 else {
            for end in [pipes[0][1], pipes[1][0], pipes[2][0]] { close(end) }
            throw IdentityError(AtomicFile.failure("run the issuer", program, errno: code))
        }
        self.pid = pid
        input = pipes[0][1]
        outputs = [pipes[1][0], pipes[2][0]]
        for end in outputs + [input] { _ = fcntl(end, F_SETFL, O_NONBLOCK) }
    }

    deinit {
        if !isReaped {
            kill(-pid, SIGKILL)
            while waitpid(pid, nil, 0) < 0, errno == EINTR {}
        }
        for end in outputs + [input] where end >= 0 { close(end) }
    }

    /// The end of stderr, fit for an error message.
    var complaint: String {
        let text = errors.map { $0 >= 0x20 && $0 < 0x7F ? $0 : UInt8(ascii: " ") }
        return String(decoding: text, as: UTF8.self).split(separator: " ").joined(separator: " ")
    }

    /// Feeds and drains the program until it ends; its wait status, or nil when time is up.
    ///
    /// Its end counts, not that of the pipes: something it left running may hold them open.
    mutating func exchange(input bytes: [UInt8], until deadline: ContinuousClock.Instant) -> Int32? {
        var written = 0
        while ContinuousClock.now < deadline {
            var status: Int32 = 0
            if waitpid(pid, &status, WNOHANG) == pid {
                isReaped = true
                drain()
                return status
            }
            var polled = [pollfd(fd: input, events: Int16(POLLOUT), revents: 0)]
            polled += outputs.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
            // poll skips negative descriptors. With all pipes closed the end is near: look often.
            let isQuiet = polled.allSatisfy { $0.fd < 0 }
            poll(&polled, nfds_t(polled.count), isQuiet ? 5 : 50)
            if polled[0].revents != 0 { feed(bytes, &written) }
            drain()
            if output.count > ChildProgram.outputLimit { outputs[0] = closing(outputs[0]) }
        }
        return nil
    }

    private mutating func feed(_ bytes: [UInt8], _ written: inout Int) {
        let count = bytes[written...].withUnsafeBytes { write(input, $0.baseAddress, $0.count) }
        if count > 0 { written += count }
        let isOver = count < 0 && errno != EAGAIN && errno != EINTR
        if isOver || written == bytes.count { input = closing(input) }
    }

    private mutating func drain() {
        var chunk = [UInt8](repeating: 0, count: 16 * 1024)
        for index in outputs.indices {
            while outputs[index] >= 0, output.count <= ChildProgram.outputLimit {
                let count = read(outputs[index], &chunk, chunk.count)
                if count < 0 {
                    if errno == EINTR { continue }
                    if errno != EAGAIN { outputs[index] = closing(outputs[index]) }
                    break
                }
                if count == 0 {
                    outputs[index] = closing(outputs[index])
                } else if index == 0 {
                    output += chunk[..<count]
                } else {
                    errors = (errors + chunk[..<count]).suffix(ChildProgram.complaintLimit)
                }
            }
        }
    }

    private func closing(_ descriptor: Int32) -> Int32 {
        if descriptor >= 0 { close(descriptor) }
        return -1
    }

    private static var environment: [String] {
        var lines: [String] = []
        var next = environ
        while let line = next.pointee {
            lines.append(String(cString: line))
            next += 1
        }
        return lines
    }
}

/// Runs `body` on a new thread that ends with it.
private func startThread(_ body: @escaping @Sendable () -> Void) {
    final class Body {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }
    let context = Unmanaged.passRetained(Body(body))
    var thread = pthread_t()
    let code = pthread_create(
        &thread,
        nil,
        { context in
            if let context { Unmanaged<Body>.fromOpaque(context).takeRetainedValue().run() }
            return nil
        },
        context.toOpaque()
    )
    if code == 0 {
        pthread_detach(thread)
    } else {
        // No thread to be had: better late than never.
        context.takeRetainedValue().run()
    }
}
