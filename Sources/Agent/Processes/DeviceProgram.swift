import CLinux
import Glibc
import Platform
import SSHSignal

/// Runs programs of this machine to their end, for `bootstrap signal` on a device: `systemctl`, `crontab` and their like. Blocks.
struct DeviceProgram {
    /// Added to this process's environment.
    var environment: [String: String] = [:]
    var timeout = Duration.seconds(20)

    struct Output {
        /// The exit status; 128 and the signal's number when one ended it.
        var status: Int32
        /// Standard output and error, in the order they came. At most ``DeviceProgram/outputLimit`` bytes.
        var bytes: [UInt8]

        /// For messages.
        var text: String { Printable.clean(bytes, limit: 300) }
    }

    struct Failure: Error {
        var message: String
    }

    /// A crontab fits.
    static let outputLimit = 1 << 20

    /// Absolute; nil when there is none. Beside `$PATH` the directories are searched that are root's in a login shell only.
    static func find(_ name: String) -> String? {
        let path = getenv("PATH").map { String(cString: $0) } ?? ""
        for directory in path.split(separator: ":").map(String.init) + [
            "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin",
        ]
        where directory.hasPrefix("/") && access("\(directory)/\(name)", X_OK) == 0 { return "\(directory)/\(name)" }
        return nil
    }

    /// Fails unless it ends with status 0.
    @discardableResult
    func check(_ command: [String], input: [UInt8] = []) throws(Failure) -> [UInt8] {
        let output = try run(command, input: input)
        guard output.status == 0 else {
            let said = output.text.isEmpty ? "" : ": \(output.text)"
            throw Failure(message: "`\(command.joined(separator: " "))` failed (status \(output.status))\(said)")
        }
        return output.bytes
    }

    func run(_ command: [String], input: [UInt8] = []) throws(Failure) -> Output {
        let name = command.first ?? ""
        guard let program = name.hasPrefix("/") ? name : Self.find(name) else {
            throw Failure(message: "there is no program `\(name)`")
        }
        var ends: [[Int32]] = []
        for _ in 0..<2 {
            var pair: [Int32] = [-1, -1]
            guard pipe(&pair) == 0 else { throw Failure(message: "pipe: \(String(cString: strerror(errno)))") }
            for end in pair { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
            ends.append(pair)
        }
        let process = Self.spawn(program, command, environment, input: ends[0][0], output: ends[1][1])
        close(ends[0][0])
        close(ends[1][1])
        defer { close(ends[1][0]) }
        guard let process else {
            close(ends[0][1])
            throw Failure(message: "`\(program)` cannot be started: \(String(cString: strerror(errno)))")
        }
        let deadline = ContinuousClock.now + timeout
        let bytes = Self.exchange(input, to: ends[0][1], from: ends[1][0], until: deadline)
        var status: Int32 = 0
        // What closed its output may still run.
        while waitpid(process, &status, WNOHANG) == 0 {
            guard ContinuousClock.now < deadline, bytes != nil else {
                kill(-process, SIGKILL)
                waitpid(process, &status, 0)
                throw Failure(
                    message: "`\(command.joined(separator: " "))` did not end within \(timeout.components.seconds) s"
                )
            }
            usleep(2000)
        }
        let signal = status & 0x7F
        return Output(status: signal == 0 ? status >> 8 & 0xFF : 128 + signal, bytes: bytes ?? [])
    }

    private static func spawn(
        _ program: String,
        _ arguments: [String],
        _ added: [String: String],
        input: Int32,
        output: Int32
    ) -> pid_t? {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        for (from, to) in [(input, 0), (output, 1), (output, 2)] as [(Int32, Int32)] {
            posix_spawn_file_actions_adddup2(&actions, from, to)
        }
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var all = sigset_t()
        sigfillset(&all)
        posix_spawnattr_setsigdefault(&attributes, &all)
        // A group of its own: a timeout ends what the program started, too.
        posix_spawnattr_setpgroup(&attributes, 0)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP))
        var variables = LocalAccount.current().environment
        variables.merge(added) { $1 }
        variables["LC_ALL"] = "C"
        let argv = arguments.map { strdup($0) } + [nil]
        let envp = variables.map { strdup("\($0.key)=\($0.value)") } + [nil]
        defer { for string in argv + envp { free(string) } }
        var process: pid_t = 0
        let result = posix_spawn(&process, program, &actions, &attributes, argv, envp)
        if result != 0 { errno = result }
        return result == 0 ? process : nil
    }

    /// nil when the time is over. SIGPIPE is ignored in the processes that run this.
    private static func exchange(
        _ input: [UInt8],
        to writer: Int32,
        from reader: Int32,
        until deadline: ContinuousClock.Instant
    ) -> [UInt8]? {
        var (rest, output, isWriting) = (input[...], [UInt8](), true)
        for end in [writer, reader] { _ = fcntl(end, F_SETFL, O_NONBLOCK) }
        defer { if isWriting { close(writer) } }
        var chunk = [UInt8](repeating: 0, count: 4096)
        while true {
            if isWriting {
                let count = rest.withUnsafeBytes { write(writer, $0.baseAddress, $0.count) }
                if count > 0 { rest = rest.dropFirst(count) }
                if rest.isEmpty || count < 0 && errno != EAGAIN && errno != EINTR {
                    close(writer)
                    isWriting = false
                }
            }
            let count = read(reader, &chunk, chunk.count)
            if count > 0 {
                output += chunk[..<min(count, outputLimit - output.count)]
                continue
            }
            if count == 0 { return output }
            guard errno == EAGAIN || errno == EINTR else { return output }
            let left = deadline - ContinuousClock.now
            guard left > .zero else { return nil }
            var waiting = [pollfd(fd: reader, events: Int16(POLLIN), revents: 0)]
            if isWriting { waiting.append(pollfd(fd: writer, events: Int16(POLLOUT), revents: 0)) }
            poll(&waiting, nfds_t(waiting.count), Int32(min(left.components.seconds, 60)) * 1000 + 100)
        }
    }
}
