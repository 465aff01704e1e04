import ArgumentParser
import CLinux
import Glibc
import Platform
import Synchronization

/// `-f`: the command goes on in the background once it does what it was asked for, and its exit code says whether it
/// does. `ControlPersist`: what goes on there keeps the paths only, for this command and those that follow.
///
/// A process with threads cannot fork and go on. So the same command is started a second time, and keeps the terminal,
/// where it may ask for passwords, until it is ready; then it leaves the terminal's session and says so through its
/// standard input, at which the first one waits.
enum Background {
    private static let variable = "BOOTSTRAP_BACKGROUND"
    private static let forMaster = "master"
    private static let second = Atomic(false)
    private static let master = Atomic(false)
    private static let detached = Atomic(false)

    /// At the start of the process: whether it is the one that goes on, which what it starts must not take itself for.
    static func takeOver() {
        guard let purpose = getenv(variable).map({ String(cString: $0) }) else { return }
        unsetenv(variable)
        var type: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        let hasWay = getsockopt(STDIN_FILENO, SOL_SOCKET, SO_TYPE, &type, &length) == 0
        second.store(hasWay, ordering: .relaxed)
        master.store(hasWay && purpose == forMaster, ordering: .relaxed)
        guard hasWay else { return }
        // The kernel would end it with the first process also later on; until then a thread looks.
        clinux_outlive_parent()
        let way = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)
        startThread {
            var byte: UInt8 = 0
            while read(way, &byte, 1) < 0, errno == EINTR {}
            close(way)
            if !isDetached { kill(getpid(), SIGTERM) }
        }
    }

    /// This process is the one that goes to the background.
    static var isThisProcess: Bool { second.load(ordering: .relaxed) }

    /// This process keeps paths for others, and does nothing else that its command line asks for.
    static var isMaster: Bool { master.load(ordering: .relaxed) }

    /// It has gone there: nobody sees standard output any more.
    static var isDetached: Bool { detached.load(ordering: .relaxed) }

    /// Starts the command a second time, and waits until it is ready.
    ///
    /// - Parameter asMaster: Only to keep paths for others.
    /// - Throws: the exit code where it was not.
    static func start(asMaster: Bool = false) throws {
        let option = asMaster ? "ControlPersist" : "-f"
        guard let program = Executable.path else {
            throw fail("\(option): /proc is not there to find this program in")
        }
        var ends: [Int32] = [-1, -1]
        let type = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
        guard socketpair(AF_UNIX, type, 0, &ends) == 0 else {
            throw fail("\(option): \(String(cString: strerror(errno)))")
        }
        var environment = Program.currentEnvironment
        environment[variable] = asMaster ? forMaster : "command"
        var second = Program(program, CommandLine.arguments, environment: environment, group: .callers)
        // It ends with this process, and looks for itself once it runs.
        second.endsWithThread = true
        let started: StartedProgram
        do throws(SystemError) {
            started = try second.start(input: ends[1], output: STDOUT_FILENO, errors: STDERR_FILENO)
        } catch {
            throw fail("\(option): \(program): \(error)")
        }
        close(ends[1])
        var byte: UInt8 = 0
        var count = read(ends[0], &byte, 1)
        while count < 0, errno == EINTR { count = read(ends[0], &byte, 1) }
        guard count != 1 else { return }
        let end = started.wait()
        // It has told why.
        throw ExitCode(end.isSuccess ? ExitCode.failed.rawValue : end.shellStatus)
    }

    /// Leaves the terminal, and tells the process that waits. Does nothing in one that was not started for it.
    ///
    /// Standard error stays where it is a file or a terminal; whoever reads a pipe or a socket would wait for its end.
    /// Nobody has started what keeps paths for others, and it is not to write to anybody's terminal.
    static func enter() {
        guard isThisProcess, !detached.exchange(true, ordering: .relaxed) else { return }
        _ = setsid()
        let nowhere = open("/dev/null", O_RDWR | O_CLOEXEC)
        guard nowhere >= 0 else { return }
        dup2(nowhere, STDOUT_FILENO)
        var status = stat()
        let isFile = fstat(STDERR_FILENO, &status) == 0 && status.st_mode & S_IFMT == S_IFREG
        if !isFile, isMaster || isatty(STDERR_FILENO) == 0 { dup2(nowhere, STDERR_FILENO) }
        var byte: UInt8 = 1
        _ = send(STDIN_FILENO, &byte, 1, Int32(MSG_NOSIGNAL))
        dup2(nowhere, STDIN_FILENO)
        close(nowhere)
    }
}
