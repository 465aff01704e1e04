package import Glibc
import MeshIdentity
import Platform
import SSHSignal

/// Watches over a device's node: `bootstrap supervise`, which every kind of service runs, so that they all behave the same.
///
/// ```
///   starting ── ready ──→ running ── node ended ──→ starting again, after a pause that grows from 1 s to 30 s
///                            │ SIGUSR2: the request in `node.request` ─→ another node is started and takes the sockets over;
///                            │                 one that does not get ready changes nothing. Answer in `node.outcome`
///                            └ SIGTERM ─→ nodes are told, waited for, ended ──→ 0
/// ```
///
/// One thread; it blocks. A node that was taken over ends with its last stream, and is collected then.
package struct Supervisor {
    /// Absolute.
    package var state: String
    /// What is started: a link to the release in use, normally.
    package var program: String
    /// For the journal of the service: a line.
    package var log: (String) -> Void

    package init(state: String, program: String, log: @escaping (String) -> Void) {
        self.state = state
        self.program = program
        self.log = log
    }

    /// The directory's supervisor did not start, or another one is there.
    package struct Failure: Error, CustomStringConvertible {
        package var description: String
    }

    static func processFile(_ state: String) -> String { "\(state)/supervisor.pid" }

    /// Why the last start failed.
    private static func failureFile(_ state: String) -> String { "\(state)/node.failure" }

    static func failure(state: String) -> String? {
        guard let bytes = try? LocalFile.read(failureFile(state), limit: 64 << 10) else { return nil }
        return String(decoding: bytes, as: UTF8.self)
    }

    static func forgetFailure(state: String) { unlink(failureFile(state)) }

    /// The supervisor that runs.
    package static func running(state: String) -> pid_t? {
        ProcessList.process(in: processFile(state), with: ["supervise", state])
    }

    /// Longer than it lives, a node was healthy, and the next pause is the first again.
    private static let healthyLife = Duration.seconds(60)
    private static let longestPause = Duration.seconds(30)

    /// Runs until a signal ends it.
    package func run() throws(Failure) {
        let lock = try takeLock()
        defer {
            unlink(Self.processFile(state))
            close(lock)
        }
        guard SignalPipe.open() else { throw Failure(description: "signals cannot be received") }
        var node: NodeProcess { NodeProcess(state: state, executable: program) }
        var current: pid_t?
        var pause = Duration.seconds(1)
        while !SignalPipe.isStopping {
            let started = ContinuousClock.now
            if current == nil {
                do throws(NodeProcess.Failure) {
                    let (listener, process) = try node.start(while: { !SignalPipe.isStopping })
                    current = process
                    Self.forgetFailure(state: state)
                    log("node \(process) listens on \(listener)")
                } catch {
                    if SignalPipe.isStopping { break }
                    try? AtomicFile.write(Array(error.message.utf8), to: Self.failureFile(state), mode: 0o600)
                    log("\(error.message); next try in \(pause.components.seconds) s")
                }
            }
            while current != nil, !SignalPipe.isStopping {
                SignalPipe.wait(.seconds(3600))
                if SignalPipe.takeRequest() { current = answer(current) }
                // Also one that has only just taken another's place.
                for (ended, status) in Self.collect() where ended == current {
                    log("node \(ended) ended (\(Self.text(status)))")
                    current = nil
                }
            }
            if started.duration(to: .now) > Self.healthyLife { pause = .seconds(1) }
            guard current == nil, !SignalPipe.isStopping else { continue }
            let until = ContinuousClock.now + pause
            while current == nil, !SignalPipe.isStopping, ContinuousClock.now < until {
                SignalPipe.wait(until - ContinuousClock.now)
                if SignalPipe.takeRequest() { current = answer(nil) }
                for (ended, _) in Self.collect() where ended == current { current = nil }
            }
            pause = min(pause * 2, Self.longestPause)
        }
        end()
    }

    private func takeLock() throws(Failure) -> Int32 {
        let path = Self.processFile(state)
        let file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
        guard file >= 0 else { throw Failure(description: "\(path): \(String(cString: strerror(errno)))") }
        guard flock(file, LOCK_EX | LOCK_NB) == 0 else {
            close(file)
            throw Failure(description: "another supervisor runs for \(state)")
        }
        let text = Array("\(getpid())\n".utf8)
        guard ftruncate(file, 0) == 0, write(file, text, text.count) == text.count else {
            close(file)
            throw Failure(description: "\(path): \(String(cString: strerror(errno)))")
        }
        return file
    }

    /// Starts the node that is asked for beside the one that runs.
    ///
    /// - Returns: the node to watch over from now on.
    private func answer(_ current: pid_t?) -> pid_t? {
        guard let request = ReplacementRequest.read(state: state) else { return current }
        log("replacing the node by \(request.program)")
        do throws(NodeProcess.Failure) {
            let node = NodeProcess(state: state, executable: request.program)
            let (listener, process) = try node.start(while: { !SignalPipe.isStopping })
            request.answer(listener: listener, state: state)
            log("node \(process) listens on \(listener)")
            return process
        } catch {
            request.answer(failure: error.message, state: state)
            log("\(error.message); \(current.map { "node \($0) goes on" } ?? "there is no node")")
            return current
        }
    }

    /// Those children that have ended, and how.
    private static func collect() -> [(pid_t, Int32)] {
        var ended: [(pid_t, Int32)] = []
        var status: Int32 = 0
        while case let process = waitpid(-1, &status, WNOHANG), process > 0 { ended.append((process, status)) }
        return ended
    }

    private static func text(_ status: Int32) -> String {
        let signal = status & 0x7F
        return signal == 0 ? "status \(status >> 8 & 0xFF)" : "signal \(signal)"
    }

    /// Also those that drain.
    private func end() {
        for (signal, limit) in [(SIGTERM, NodeProcess.stopLimit), (SIGKILL, .seconds(2))] {
            let nodes = NodeProcess.all(state: state)
            if nodes.isEmpty { break }
            for node in nodes { kill(node, signal) }
            let deadline = ContinuousClock.now + limit
            while !NodeProcess.all(state: state).isEmpty, ContinuousClock.now < deadline {
                _ = Self.collect()
                usleep(10_000)
            }
        }
        _ = Self.collect()
        log("ended")
    }
}

extension Supervisor {
    /// In a session of its own, for a service that is nothing but a process.
    static func startDetached(_ description: ServiceDescription) throws(DeviceProgram.Failure) {
        let log = open("\(description.state)/node.log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
        guard log >= 0 else {
            throw DeviceProgram.Failure(message: "\(description.state)/node.log: \(String(cString: strerror(errno)))")
        }
        defer { close(log) }
        do throws(NodeProcess.Failure) {
            _ = try NodeProcess.spawn(description.arguments, output: log, log: log)
        } catch {
            throw DeviceProgram.Failure(message: error.message)
        }
    }

    /// Ends the supervisor with its node.
    static func stop(state: String) {
        guard let process = running(state: state) else { return }
        // It waits for its nodes in turn.
        _ = ProcessList.end(process, patience: NodeProcess.stopLimit + .seconds(4)) { _ in running(state: state) != nil
        }
    }
}

/// `node.request` and `node.outcome`: what `bootstrap signal` asks of a supervisor, and the answer.
struct ReplacementRequest {
    /// A fresh word that the answer repeats.
    let id: String
    let program: String

    private static func requestFile(_ state: String) -> String { "\(state)/node.request" }
    private static func outcomeFile(_ state: String) -> String { "\(state)/node.outcome" }

    init(program: String) {
        id = AtomicFile.randomName()
        self.program = program
    }

    private init(id: String, program: String) { (self.id, self.program) = (id, program) }

    func write(state: String) throws(IdentityError) {
        unlink(Self.outcomeFile(state))
        try fileWork(AtomicFile.write(Array("\(id)\n\(program)\n".utf8), to: Self.requestFile(state), mode: 0o600))
    }

    static func read(state: String) -> ReplacementRequest? {
        guard let lines = lines(requestFile(state)), lines.count == 2 else { return nil }
        unlink(requestFile(state))
        return ReplacementRequest(id: lines[0], program: lines[1])
    }

    func answer(listener: String, state: String) { write("ready", listener, state) }

    func answer(failure: String, state: String) { write("failed", failure, state) }

    private func write(_ word: String, _ text: String, _ state: String) {
        let text = text.split(separator: "\n").joined(separator: " ")
        try? AtomicFile.write(Array("\(id)\n\(word)\n\(text)\n".utf8), to: Self.outcomeFile(state), mode: 0o600)
    }

    /// The listener of the new node; nil while there is no answer.
    func outcome(state: String) throws(NodeProcess.Failure) -> String? {
        guard let lines = Self.lines(Self.outcomeFile(state)), lines.count == 3, lines[0] == id else { return nil }
        guard lines[1] == "ready" else { throw NodeProcess.Failure(message: lines[2]) }
        return lines[2]
    }

    private static func lines(_ file: String) -> [String]? {
        guard let bytes = try? LocalFile.read(file, limit: 64 << 10) else { return nil }
        return String(decoding: bytes, as: UTF8.self).split(separator: "\n").map(String.init)
    }
}

extension Supervisor {
    /// What a supervisor starts that was itself started as `ROOT/current/bootstrap` or `ROOT/RELEASE/bootstrap`: the release in use, whatever it
    /// will be by then. nil where nothing is installed beside the state.
    package static func program(state: String) -> String? {
        let link = "\(AtomicFile.split(state).directory)/current/bootstrap"
        return access(link, X_OK) == 0 ? link : nil
    }
}
