import Glibc
import MeshIdentity
import Platform
import SSHSignal

/// Watches over a device's node: `bootstrap supervise`, which every kind of service runs, so that they all behave the
/// same.
///
/// ``Supervision`` decides what is next; here it is done, on one thread, which blocks. SIGUSR2: the request in
/// `node.request` has another node started, which takes the sockets over; one that does not get ready changes nothing;
/// the answer is in `node.outcome`. SIGTERM: nodes are told, waited for, ended. A node that was taken over ends with
/// its last stream, and is collected then.
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
    package static func running(state: String) -> Int32? {
        ProcessList.process(in: processFile(state), with: ["supervise", state])
    }

    /// Runs until a signal ends it.
    package func run() throws(Failure) {
        let lock = try takeLock()
        defer {
            unlink(Self.processFile(state))
            close(lock)
        }
        guard SignalPipe.open() else { throw Failure(description: "signals cannot be received") }
        var supervision = Supervision(at: .now)
        while true {
            if SignalPipe.isStopping { supervision.stop() }
            switch supervision.next(at: .now) {
            case .start: start(&supervision)
            case .wait(let limit):
                SignalPipe.wait(limit)
                if SignalPipe.takeRequest() { answer(&supervision) }
                collect(&supervision)
            case .end: return end()
            }
        }
    }

    private func start(_ supervision: inout Supervision) {
        do throws(NodeProcess.Failure) {
            let node = NodeProcess(state: state, executable: program)
            let (listener, process) = try node.start(while: { !SignalPipe.isStopping }, warn: log)
            supervision.started(process)
            Self.forgetFailure(state: state)
            log("node \(process) listens on \(listener)")
        } catch {
            if SignalPipe.isStopping { return }
            try? AtomicFile.write(Array(error.message.utf8), to: Self.failureFile(state), mode: 0o600)
            log("\(error.message); next try in \(supervision.pause)")
            supervision.startFailed(at: .now)
        }
    }

    /// Starts the node that is asked for beside the one that runs.
    private func answer(_ supervision: inout Supervision) {
        guard let request = ReplacementRequest.read(state: state) else { return }
        log("replacing the node by \(request.program)")
        do throws(NodeProcess.Failure) {
            let node = NodeProcess(state: state, executable: request.program)
            let (listener, process) = try node.start(while: { !SignalPipe.isStopping }, warn: log)
            supervision.replaced(by: process, at: .now)
            request.answer(listener: listener, state: state)
            log("node \(process) listens on \(listener)")
        } catch {
            request.answer(failure: error.message, state: state)
            log("\(error.message); \(supervision.process.map { "node \($0) goes on" } ?? "there is no node")")
        }
    }

    private func collect(_ supervision: inout Supervision) {
        for (process, status) in Self.collect() where supervision.ended(process, at: .now) {
            log("node \(process) ended (\(Self.text(status)))")
        }
    }

    private func takeLock() throws(Failure) -> Int32 {
        let path = Self.processFile(state)
        var file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
        if file < 0 {
            // On a file system that cannot be written to: the directory can be locked as well.
            let reason = errno
            file = open(state, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
            guard file >= 0 else { throw Failure(description: "\(path): \(String(cString: strerror(reason)))") }
        }
        guard flock(file, LOCK_EX | LOCK_NB) == 0 else {
            close(file)
            throw Failure(description: "another supervisor runs for \(state)")
        }
        // Over what was there, which takes no room on a full disk. Without it the supervisor is not found by those who
        // want another node; the one that there is runs all the same.
        let text = Array("\(getpid())\n".utf8)
        if pwrite(file, text, text.count, 0) != text.count || ftruncate(file, off_t(text.count)) != 0 {
            log("\(path) cannot be written: \(String(cString: strerror(errno)))")
        }
        return file
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
        do throws(NodeProcess.Failure) {
            let path = NodeProcess.logFile(description.state)
            let log = try NodeProcess.openLog(path)
            defer { close(log) }
            _ = try NodeProcess.spawn(description.arguments, output: log, log: log, logFile: path)
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

extension Supervisor {
    /// What a supervisor starts that was itself started as `ROOT/current/bootstrap` or `ROOT/RELEASE/bootstrap`: the
    /// release in use, whatever it will be by then. nil where nothing is installed beside the state.
    package static func program(state: String) -> String? {
        let link = "\(AtomicFile.split(state).directory)/current/bootstrap"
        return access(link, X_OK) == 0 ? link : nil
    }
}
