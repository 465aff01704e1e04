import CLinux
import Glibc
import Platform
import SSHSignal
import Streams

/// The `bootstrap node` of this machine: found by its process number file, started detached from whoever starts it.
package struct NodeProcess {
    /// Where its files are; absolute.
    let state: String
    /// The program to run; absolute.
    let executable: String

    package init(state: String, executable: String) {
        self.state = state
        self.executable = executable
    }

    var configuration: String { "\(state)/node.yaml" }
    /// Where one node hands its sockets to the next.
    private var runtime: String { "\(state)/run" }
    private var processFile: String { "\(state)/node.pid" }
    /// What it has said on its standard output: a line `ready NAME ADDRESS` for each listener.
    private var readyFile: String { "\(state)/node.ready" }
    private var logFile: String { Self.logFile(state) }

    static func logFile(_ state: String) -> String { "\(state)/node.log" }

    /// The node drains its streams before it ends.
    static let stopLimit = Duration.seconds(15)
    private static let pollInterval: useconds_t = 10_000

    struct Failure: Error {
        var message: String
    }

    /// The process, while it runs: the number in the file, and a command line that is ours (numbers are used again).
    package var runningProcess: Int32? { ProcessList.process(in: processFile, with: ["node", configuration]) }

    /// Also those that were taken over and end with their last stream.
    package static func all(state: String) -> [Int32] {
        ProcessList.all.filter { process in
            let arguments = ProcessList.arguments(of: process)
            return arguments.contains("node") && arguments.contains("\(state)/node.yaml")
                && ProcessList.sees(state, process)
        }
    }

    /// Whether the process runs this very program: after an upgrade it does not, and after a replacement of the file
    /// neither.
    func isCurrent(_ process: pid_t) -> Bool { ProcessList.program(of: process) == Self.resolved(executable) }

    private static func resolved(_ path: String) -> String? {
        guard let resolved = realpath(path, nil) else { return nil }
        defer { free(resolved) }
        return String(cString: resolved)
    }

    /// Where its HBONE listener accepts, by its own word; nil before.
    var listener: String? { NodeStart.listener(in: Self.read(readyFile) ?? "") }

    /// Whether somebody accepts there.
    package static func accepts(_ listener: String) -> Bool {
        guard let (bound, port) = NumericAddress.split(listener) else { return false }
        let address = ["0.0.0.0": "127.0.0.1", "::": "::1"][bound] ?? bound
        return (try? SocketAddress(ip: address, port: port))?.accepts(within: .seconds(1)) ?? false
    }

    /// Starts it in a session of its own, with no file of ours open, and waits for its `ready hbone` line. It takes the
    /// sockets over from the one that runs, which goes on until then, and ends with its last stream. Where that one
    /// cannot hand over it is to be stopped before.
    ///
    /// Its word comes through a pipe: a node that runs is not ended because a disk has no room for a line about it.
    /// What is recorded for others is written where it can be.
    ///
    /// - Parameters:
    ///   - goesOn: asked while it is waited for; false gives up.
    ///   - warn: told what could not be recorded.
    /// - Returns: the listener's address, and the process, a child of this one.
    /// - Throws: when it does not get ready. It is gone then, and what ran before runs on.
    func start(
        while goesOn: () -> Bool = { true },
        warn: (String) -> Void = { _ in }
    ) throws(Failure) -> (listener: String, process: pid_t) {
        let log = try Self.openLog(logFile)
        defer { close(log) }
        let logStart = lseek(log, 0, SEEK_END)
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else { throw failure("a pipe cannot be made", errno) }
        let (word, output) = (ends[0], ends[1])
        defer { close(word) }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        _ = fcntl(word, F_SETFL, O_NONBLOCK)
        // Of an earlier release.
        unlink("\(readyFile).new")
        // The name of a Unix socket has at most 107 bytes; without one the next node has to wait for the end of this.
        let handover = runtime.utf8.count <= 90 ? ["--runtime", runtime] : []
        let arguments = [executable, "node", "--config", configuration] + handover
        let spawned = Result { () throws(Failure) in
            try Self.spawn(arguments, output: output, log: log, logFile: logFile)
        }
        close(output)
        let process = try spawned.get()
        var said: [UInt8] = []
        do throws(Failure) {
            let start = NodeStart(at: .now)
            while true {
                var status: Int32 = 0
                Self.readMore(word, &said)
                let seen = NodeStart.Observation(
                    output: String(decoding: said, as: UTF8.self),
                    accepts: Self.accepts,
                    hasEnded: { waitpid(process, &status, WNOHANG) == process },
                    isWanted: goesOn()
                )
                switch start.verdict(seen, at: .now) {
                case .ready(let listener):
                    // Who waits looks at the process first.
                    record(said, in: readyFile, mode: 0o600, warn)
                    record(Array("\(process)\n".utf8), in: processFile, mode: 0o644, warn)
                    return (listener, process)
                case .ended:
                    throw Failure(message: "the node ended at once: \(logTail(from: logStart))")
                case .late:
                    throw Failure(
                        message:
                            "the node was not ready within \(NodeStart.limit.components.seconds) s: \(logTail(from: logStart))"
                    )
                case .wait: usleep(Self.pollInterval)
                }
            }
        } catch {
            // One that did not get ready is not left behind.
            kill(process, SIGKILL)
            var status: Int32 = 0
            waitpid(process, &status, 0)
            throw error
        }
    }

    /// Whether the process can hand its sockets over: one of an older release may not.
    func handsOver(_ process: pid_t) -> Bool {
        ProcessList.arguments(of: process).contains(runtime) && access("\(runtime)/takeover.sock", F_OK) == 0
    }

    /// Has it take over the new credential now rather than when it looks the next time.
    func reload(_ process: pid_t) { kill(process, SIGHUP) }

    /// Ends it: gently, then not.
    func stop(_ process: pid_t) throws(Failure) {
        guard ProcessList.end(process, patience: Self.stopLimit, isOurs: { runningProcess == $0 }) else {
            throw Failure(message: "the running node (process \(process)) cannot be stopped")
        }
    }

    /// Starts a program in a session of its own that outlives whoever starts it.
    static func spawn(
        _ arguments: [String],
        output: Int32,
        log: Int32,
        logFile: String
    ) throws(Failure) -> pid_t {
        // The channel of the login must not stay open because the node has it.
        let empty = open("/dev/null", O_RDONLY | O_CLOEXEC)
        guard empty >= 0 else { throw Failure(message: "/dev/null cannot be opened: \(SystemError(errno))") }
        defer { close(empty) }
        var environment = LocalAccount.current().environment.filter { !$0.key.hasPrefix("SSH_") }
        environment[LogFile.environmentVariable] = logFile
        let program = Program(arguments[0], arguments, environment: environment, group: .session)
        do throws(SystemError) {
            return try program.start(input: empty, output: output, errors: log).pid
        } catch {
            throw Failure(message: "\(arguments[0]) cannot be started: \(error)")
        }
    }

    /// The log of a node or a supervisor; where there can be none, nothing is logged.
    static func openLog(_ path: String) throws(Failure) -> Int32 {
        let log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
        if log >= 0 { return log }
        let nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC)
        guard nowhere >= 0 else { throw Failure(message: "/dev/null cannot be opened: \(SystemError(errno))") }
        return nowhere
    }

    /// Whole, by a rename. Where there is no room for another file: over what is there, which takes none.
    private func record(_ bytes: [UInt8], in path: String, mode: UInt32, _ warn: (String) -> Void) {
        do throws(FileError) {
            try AtomicFile.write(bytes, to: path, mode: mode)
        } catch {
            let file = open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, mode_t(mode))
            defer { if file >= 0 { close(file) } }
            guard file >= 0, pwrite(file, bytes, bytes.count, 0) == bytes.count,
                ftruncate(file, off_t(bytes.count)) == 0
            else { return warn("\(error)") }
        }
    }

    /// What has come through the pipe since; at most 64 KiB in all.
    private static func readMore(_ pipe: Int32, _ bytes: inout [UInt8]) {
        var chunk = [UInt8](repeating: 0, count: 4096)
        while bytes.count < 64 << 10, case let count = Glibc.read(pipe, &chunk, chunk.count), count > 0 {
            bytes += chunk[..<count]
        }
    }

    /// The end of what the node logged since it was started.
    private func logTail(from start: off_t) -> String {
        let file = open(logFile, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { return "" }
        defer { close(file) }
        let end = lseek(file, 0, SEEK_END)
        var bytes = [UInt8](repeating: 0, count: 2000)
        // One that has grown to its limit meanwhile begins anew.
        let from = start <= end ? max(start, end - off_t(bytes.count)) : 0
        let count = pread(file, &bytes, bytes.count, from)
        let text = count > 0 ? Self.reason(in: bytes[..<count]) : ""
        return text.isEmpty ? "it logged nothing (\(logFile))" : "\(text) (\(logFile))"
    }

    /// Of what a node logged until it ended: its error where it says one, else its last line.
    static func reason(in log: some Sequence<UInt8>) -> String {
        let lines = String(decoding: Array(log), as: UTF8.self).split(separator: "\n")
        let mark = "error: "
        let error = lines.lastIndex { $0.hasPrefix(mark) }.map { lines[$0...].joined(separator: " ") }
        return Printable.clean(error.map { $0.dropFirst(mark.count) } ?? lines.last ?? "", limit: 1000)
    }

    private func failure(_ what: String, _ code: Int32) -> Failure {
        Failure(message: "\(what): \(String(cString: strerror(code)))")
    }

    private static func read(_ path: String) -> String? {
        guard let bytes = try? LocalFile.read(path, limit: 64 << 10) else { return nil }
        return String(decoding: bytes, as: UTF8.self)
    }
}
