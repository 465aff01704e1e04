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
    /// Its standard output: a line `ready NAME ADDRESS` for each listener.
    private var readyFile: String { "\(state)/node.ready" }
    private var logFile: String { "\(state)/node.log" }

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
    /// - Parameter goesOn: asked while it is waited for; false gives up.
    /// - Returns: the listener's address, and the process, a child of this one.
    /// - Throws: when it does not get ready. It is gone then, and what ran before runs on.
    func start(while goesOn: () -> Bool = { true }) throws(Failure) -> (listener: String, process: pid_t) {
        let log = open(logFile, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
        guard log >= 0 else { throw failure("\(logFile) cannot be opened", errno) }
        defer { close(log) }
        let logStart = lseek(log, 0, SEEK_END)
        // The one that runs keeps its word until this one has given its own.
        let newReadyFile = "\(readyFile).new"
        unlink(newReadyFile)
        let ready = open(newReadyFile, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0o600)
        guard ready >= 0 else { throw failure("\(newReadyFile) cannot be opened", errno) }
        defer { close(ready) }
        // The name of a Unix socket has at most 107 bytes; without one the next node has to wait for the end of this.
        let handover = runtime.utf8.count <= 90 ? ["--runtime", runtime] : []
        let arguments = [executable, "node", "--config", configuration] + handover
        let process = try Self.spawn(arguments, output: ready, log: log)
        do throws(Failure) {
            let start = NodeStart(at: .now)
            while true {
                var status: Int32 = 0
                let seen = NodeStart.Observation(
                    output: Self.read(newReadyFile) ?? "",
                    accepts: Self.accepts,
                    hasEnded: { waitpid(process, &status, WNOHANG) == process },
                    isWanted: goesOn()
                )
                switch start.verdict(seen, at: .now) {
                case .ready(let listener):
                    // Who waits looks at the process first.
                    guard rename(newReadyFile, readyFile) == 0 else {
                        throw failure("\(readyFile) cannot be written", errno)
                    }
                    try writeProcessFile(process)
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
            unlink(newReadyFile)
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
    static func spawn(_ arguments: [String], output: Int32, log: Int32) throws(Failure) -> pid_t {
        // The channel of the login must not stay open because the node has it.
        let empty = open("/dev/null", O_RDONLY | O_CLOEXEC)
        guard empty >= 0 else { throw Failure(message: "/dev/null cannot be opened: \(SystemError(errno))") }
        defer { close(empty) }
        let environment = LocalAccount.current().environment.filter { !$0.key.hasPrefix("SSH_") }
        let program = Program(arguments[0], arguments, environment: environment, group: .session)
        do throws(SystemError) {
            return try program.start(input: empty, output: output, errors: log).pid
        } catch {
            throw Failure(message: "\(arguments[0]) cannot be started: \(error)")
        }
    }

    private func writeProcessFile(_ process: pid_t) throws(Failure) {
        let temporary = "\(processFile).new"
        let file = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        guard file >= 0 else { throw failure("\(processFile) cannot be written", errno) }
        let text = Array("\(process)\n".utf8)
        let written = write(file, text, text.count)
        close(file)
        guard written == text.count, rename(temporary, processFile) == 0 else {
            throw failure("\(processFile) cannot be written", errno)
        }
    }

    /// The end of what the node logged since it was started.
    private func logTail(from start: off_t) -> String {
        let file = open(logFile, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { return "" }
        defer { close(file) }
        let end = lseek(file, 0, SEEK_END)
        var bytes = [UInt8](repeating: 0, count: 2000)
        let count = pread(file, &bytes, bytes.count, max(start, end - off_t(bytes.count)))
        let text = count > 0 ? Printable.clean(bytes[..<count], limit: 1000) : ""
        return text.isEmpty ? "it logged nothing (\(logFile))" : text
    }

    private func failure(_ what: String, _ code: Int32) -> Failure {
        Failure(message: "\(what): \(String(cString: strerror(code)))")
    }

    private static func read(_ path: String) -> String? {
        guard let bytes = try? LocalFile.read(path, limit: 64 << 10) else { return nil }
        return String(decoding: bytes, as: UTF8.self)
    }
}
